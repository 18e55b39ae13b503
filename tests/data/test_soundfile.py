"""FLAC and OGG clips, which soundfile decodes, beside WAV files of the same sound."""

from __future__ import annotations

import io

import numpy as np
import pytest

from headsearch.data.audio.decode import BadClip, decode_clip, header_of
from helpers.clips import RATE, tone, wav

soundfile = pytest.importorskip("soundfile")

STEREO = np.stack([tone(440, 0.4), tone(660, 0.4, level=0.2)], axis=1)


def encoded(kind: str, rate: int = RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, STEREO, rate, format=kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_the_header_says_rate_length_and_channels(kind: str) -> None:
    found = header_of(encoded(kind))
    assert (found.sample_rate, found.channels, found.samples) == (RATE, 2, len(STEREO))


def test_flac_holds_the_samples_of_the_wav_file() -> None:
    expected = decode_clip(wav(STEREO), RATE, 1.0)
    assert decode_clip(encoded("FLAC"), RATE, 1.0) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seconds", [1.0, 0.1])
def test_ogg_sounds_like_the_wav_file_and_is_cut_in_the_same_place(seconds: float) -> None:
    expected = decode_clip(wav(STEREO), RATE, seconds)
    found = decode_clip(encoded("OGG"), RATE, seconds)
    assert len(found) == len(expected)
    assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_another_rate_is_resampled() -> None:
    found = decode_clip(encoded("FLAC", 2 * RATE), RATE, 1.0)
    assert len(found) == len(STEREO) // 2


@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_a_clip_that_is_cut_short_says_so(kind: str) -> None:
    data = encoded(kind)
    with pytest.raises(BadClip):
        decode_clip(data[: len(data) // 2], RATE, 1.0)
    with pytest.raises(BadClip):
        decode_clip(data[:20], RATE, 1.0)

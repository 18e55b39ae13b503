"""Clips of sound: what is read of every kind of file, and what is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from headsearch.config.audio_settings import seconds_of, time_steps
from headsearch.config.input_shape import InputShape
from headsearch.data.audio.clips import fitted_form
from headsearch.data.audio.decode import BadClip, Header, decode_clip, header_of
from headsearch.data.audio.log_mel import FLOOR_DB, RANGE_DB, LogMel
from headsearch.data.domains import found_domain
from headsearch.data.settings import AudioSettings
from headsearch.errors import UserError
from helpers.clips import (
    RATE,
    extensible_wav,
    float_wav,
    tone,
    tone_folder,
    tone_tar,
    tones,
    wav,
)
from helpers.image_files import open_small, tar, write

CLIP = tone(440, 0.5)


@pytest.mark.parametrize(
    ("data", "step"),
    [
        (wav(CLIP, bits=8), 2**-7),
        (wav(CLIP, bits=16), 2**-15),
        (wav(CLIP, bits=24), 2**-23),
        (wav(CLIP, bits=32), 2**-24),
        (extensible_wav(CLIP), 2**-23),
        (float_wav(CLIP), 2**-24),
    ],
    ids=["8 bits", "16 bits", "24 bits", "32 bits", "24 bits, extensible", "floats"],
)
def test_every_kind_of_wav_file_gives_the_same_waveform(data: bytes, step: float) -> None:
    np.testing.assert_allclose(decode_clip(data, RATE, 9.0), CLIP, atol=step)
    assert header_of(data[:200]) == Header(RATE, len(CLIP), 1)


def test_channels_are_averaged() -> None:
    stereo = np.stack([CLIP, 0.5 * CLIP], axis=1)
    np.testing.assert_allclose(decode_clip(wav(stereo), RATE, 9.0), 0.75 * CLIP, atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 11025, 16000, 44100, 48000])
def test_other_rates_are_resampled(rate: int) -> None:
    waveform = decode_clip(wav(tone(440, 0.5, rate), rate), RATE, 9.0)
    assert abs(len(waveform) - len(CLIP)) <= 2
    inside = slice(400, 3600)  # the filter rings at both ends
    np.testing.assert_allclose(waveform[inside], CLIP[inside], atol=5e-3)


def test_a_tone_above_half_of_the_rate_does_not_come_back_as_another() -> None:
    above = decode_clip(wav(tone(7000, 0.5, 48000), 48000), RATE, 9.0)
    assert np.abs(above[400:3600]).max() < 0.01


def test_of_a_long_clip_the_middle_is_read() -> None:
    minute = np.zeros(60 * RATE)
    minute[30 * RATE : 30 * RATE + 100] = 0.5
    waveform = decode_clip(wav(minute), RATE, 1.0)
    assert len(waveform) == RATE
    assert waveform[RATE // 2 : RATE // 2 + 100].min() > 0.49


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (wav(np.zeros(0)), "holds no sound"),
        (wav(CLIP)[:3000], "cut short"),
        (wav(CLIP)[:20], "no readable WAV file"),
        (float_wav(np.where(CLIP > 0.4, np.nan, CLIP)), "not numbers"),
        (float_wav(np.where(CLIP > 0.4, np.inf, CLIP)), "not numbers"),
    ],
)
def test_a_bad_clip_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadClip, match=reason):
        decode_clip(data, RATE, 1.0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"a text that is called a clip", "no WAV, FLAC or OGG"), (b"fLaC and more", "pip install")],
)
def test_without_soundfile_a_clip_says_whether_it_would_help(
    data: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(BadClip, match=reason):
        decode_clip(data, RATE, 1.0)


def reference_levels(waveform: np.ndarray, how: LogMel) -> np.ndarray:
    """The map (M, W) in levels, in float64, by the formulas of a DFT and of mel triangles."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(how.window) / how.window)
    bins = np.arange(how.fft // 2 + 1)
    hertz = bins * how.sample_rate / how.fft
    padded = np.pad(waveform.astype(np.float64), how.fft)
    columns = []
    for step in range(how.shape.width):
        # The window lies in the middle of the transform, whose middle lies at the time step.
        start = how.fft + step * how.hop - how.window // 2
        part = padded[start : start + how.window] * window
        turns = np.exp(-2j * np.pi * np.outer(bins, np.arange(how.window)) / how.fft)
        columns.append(np.abs(turns @ part) ** 2 / (window.sum() / 2) ** 2)
    edges = np.linspace(0, 2595 * math.log10(1 + how.sample_rate / 2 / 700), how.mels + 2)
    edges = 700 * (10 ** (edges / 2595) - 1)
    bands = [np.interp(hertz, edges[i : i + 3], [0, 1, 0]) for i in range(how.mels)]
    decibel = 10 * np.log10(np.maximum(np.array(bands) @ np.array(columns).T, 1e-12))
    return np.clip((decibel - FLOOR_DB) * 255 / RANGE_DB, 0, 255)


def test_a_log_mel_map_is_that_of_its_formula() -> None:
    how = LogMel(RATE, 0.48, mels=24)
    draw = np.random.default_rng(0)
    waveform = 0.1 * draw.standard_normal(how.length) + tone(1000, 0.48)
    found = how.of(waveform.astype(np.float32))
    assert found.shape == how.shape.tensor == (1, 24, 48)
    # Half a level by rounding, and as much for float32.
    np.testing.assert_allclose(found[0], reference_levels(waveform, how), atol=1)


def test_a_tone_is_loudest_in_its_band_and_silence_is_the_floor() -> None:
    how = LogMel(RATE, 0.5, mels=24)
    loudest = how.of(tone(1000, how.length / RATE).astype(np.float32))[0].mean(axis=1).argmax()
    centre = 2595 * math.log10(1 + 1000 / 700) / (2595 * math.log10(1 + 4000 / 700)) * 25 - 1
    assert abs(loudest - centre) < 1
    assert how.of(np.zeros(how.length, np.float32)).max() == 0


def test_bands_that_would_be_empty_are_refused() -> None:
    with pytest.raises(UserError, match=r"--mels 256 are too many for --sample-rate 8000"):
        LogMel(RATE, 1.0, mels=256)
    with pytest.raises(UserError, match="too short"):
        LogMel(1000, 1.0, window_ms=1)


def test_rate_and_length_follow_the_clips() -> None:
    headers = [Header(8000, 800 * n, 1) for n in range(1, 11)] + [Header(44100, 441, 1)]
    how = fitted_form(headers, AudioSettings())
    assert (how.sample_rate, how.clip_seconds) == (8000, 0.96)  # nine of ten fit into 0.9 s
    assert fitted_form([Header(44100, 441_000_0, 2)], AudioSettings()).sample_rate == 16000
    asked = fitted_form(headers, AudioSettings(sample_rate=16000, clip_seconds=2.0))
    assert (asked.sample_rate, asked.shape.width) == (16000, 208)


@pytest.mark.parametrize("hop_ms", [1.0, 3.3, 10.0, 12.5])
def test_the_length_that_a_run_records_gives_the_same_map_again(hop_ms: float) -> None:
    for steps in range(32, 1024, 16):
        assert time_steps(seconds_of(steps, hop_ms), hop_ms) == steps


def test_the_domain_is_found_in_the_files(tmp_path: Path) -> None:
    clips = tone_folder(tmp_path / "clips", each=2)
    tone_tar(tmp_path / "clips.tar", each=2)
    pictures = write(tmp_path / "pictures", {"a/0.png": b"", "b/0.png": b"", "b/0.wav": b""})
    assert found_domain(str(clips)) == found_domain(str(tmp_path / "clips.tar")) == "audio"
    assert found_domain(str(pictures)) == found_domain("scenes") == "image"
    shards = tmp_path / "shards"
    shards.mkdir()
    tone_tar(shards / "train-0.tar", each=2)
    assert found_domain(str(shards)) == "audio"
    assert found_domain(str(tmp_path / "missing.tar")) == "image"


def test_a_folder_of_clips_is_split_by_label(tmp_path: Path) -> None:
    data = open_small(tone_folder(tmp_path), domain="audio")
    assert data.bank is not None
    assert data.bank.classes == ("pitch0", "pitch1", "pitch2", "pitch3")
    assert data.train.shape == InputShape(1, 64, 48, sequence=True)
    assert data.resolved == {"sample_rate": RATE, "clip_seconds": 0.48}
    assert data.train.batch(torch.arange(5)).shape == (5, 1, 64, 48)
    assert any("clips are 0.48 s at 8000 Hz" in note for note in data.notes)
    assert data.queries.labels is not None
    for half in (data.choose, data.report):
        assert len(data.queries.labels[half].unique()) == 4


def test_clips_on_demand_are_those_in_memory(tmp_path: Path) -> None:
    held = open_small(tone_folder(tmp_path), domain="audio").train
    lazy = open_small(tmp_path, domain="audio", memory_limit=1000).train
    assert (held.in_memory, lazy.in_memory) == (True, False)
    chosen = torch.tensor([3, 0, 11])
    assert torch.equal(held.batch(chosen), lazy.batch(chosen))


def test_bad_clips_are_left_out_and_listed(tmp_path: Path) -> None:
    bad = {"pitch0/empty.wav": b"", "pitch1/short.wav": wav(CLIP)[:3000], "readme.md": b"text"}
    bad["pitch2/not.flac"] = b"fLaC no more"
    tar(tmp_path / "clips.tar", {**tones(), **bad})
    data = open_small(tmp_path / "clips.tar", domain="audio")
    listed = "\n".join(data.left_out.lines)
    assert "pitch0/empty.wav: empty file" in listed
    assert "pitch1/short.wav: is cut short" in listed
    assert "pitch2/not.flac: " in listed
    assert "readme.md: not called like a clip" in listed
    with pytest.raises(UserError, match=r"\d of \d+ clips cannot be read .* --max-bad-images 0 "):
        open_small(tmp_path / "clips.tar", domain="audio", max_bad_images=0.0)


def test_a_place_without_clips_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "text", {"a.txt": b"text"})
    with pytest.raises(UserError, match=r"none a clip .*; clips end in \.wav, \.flac, \.ogg"):
        open_small(tmp_path / "text", domain="audio")
    all_bad = write(tmp_path / "bad", {f"{n}.wav": b"no sound" for n in range(80)})
    with pytest.raises(UserError, match="none of 80 clips can be read"):
        open_small(all_bad, domain="audio")

"""Waveforms with one cue taken away: what is removed, and that the rest stays."""

from __future__ import annotations

import pytest
import torch

from headsearch.data.audio.waveform import kept, samples
from headsearch.evaluation.interpretation.waveform_cues import (
    WAVEFORM_CUES,
    high_bands,
    low_bands,
)
from helpers.clips import tone


@pytest.mark.parametrize("name", WAVEFORM_CUES)
def test_every_cue_gives_clips_like_those_it_takes_and_adds_nothing_to_silence(name: str) -> None:
    noise = torch.randint(0, 256, (2, 2, 1, 41), generator=torch.Generator().manual_seed(1))
    found = WAVEFORM_CUES[name](noise.to(torch.uint8))
    assert (found.shape, found.dtype) == (noise.shape, torch.uint8)
    assert not torch.equal(found, noise)
    assert WAVEFORM_CUES[name](torch.zeros_like(found)).max() == 0


def test_low_and_high_bands_part_a_sound() -> None:
    low, high = (torch.from_numpy(tone(hertz, 1, level=0.3)).float() for hertz in (500, 2000))
    clips = kept((low + high).view(1, 1, 1, -1))
    for found, expected in ((low_bands(clips), low), (high_bands(clips), high)):
        torch.testing.assert_close(samples(found).flatten(), expected, atol=1e-4, rtol=0)

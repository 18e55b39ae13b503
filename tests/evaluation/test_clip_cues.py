"""Clips with one cue taken away: what is removed, and that the rest stays."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headsearch.evaluation.interpretation.clip_cues import (
    CLIP_CUES,
    flat_spectrum,
    high_bands,
    low_bands,
    reversed_in_time,
    shuffled_parts,
    smoothed,
    swapped_spectrum,
)
from headsearch.evaluation.interpretation.frequency import log_amplitudes
from headsearch.evaluation.interpretation.reach import field_radii


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """Three clips of 12 bands by 40 steps, each with a spectrum of its own, silent at both ends."""
    draw = torch.Generator().manual_seed(0)
    level = torch.randint(80, 160, (3, 1, 12, 1), generator=draw)
    sound = level + torch.randint(-20, 20, (3, 1, 12, 32), generator=draw)
    return torch.nn.functional.pad(sound, (4, 4)).to(torch.uint8)


def mean_spectrum(clips: Tensor) -> Tensor:
    """The mean of each band over the time that sounds: (B, M)."""
    return clips[:, 0, :, 4:-4].double().mean(-1)


@pytest.mark.parametrize("name", CLIP_CUES)
@pytest.mark.parametrize("shape", [(2, 1, 12, 40), (2, 1, 9, 21)])
def test_every_cue_gives_clips_like_those_it_takes_and_adds_nothing_to_silence(
    name: str, shape: tuple[int, ...]
) -> None:
    noise = torch.randint(1, 255, shape, generator=torch.Generator().manual_seed(1))
    found = CLIP_CUES[name](noise.to(torch.uint8))
    assert (found.shape, found.dtype) == (shape, torch.uint8)
    assert not torch.equal(found, noise)
    assert CLIP_CUES[name](torch.zeros(shape, dtype=torch.uint8)).max() == 0


def test_slow_changes_pass_and_fast_ones_do_not() -> None:
    time = torch.arange(64) / 64
    slow, fast = (30 * torch.sin(2 * math.pi * cycles * time) for cycles in (4, 16))
    expected = (120 + slow).expand(1, 1, 5, 64)
    found = smoothed((expected + fast).round().to(torch.uint8))
    assert (found - expected).abs().max() <= 2  # rounded twice


def test_a_clip_that_is_reversed_twice_is_as_before(clips: Tensor) -> None:
    assert torch.equal(reversed_in_time(reversed_in_time(clips)), clips)


def test_shuffled_parts_hold_the_same_spectra_at_other_times(clips: Tensor) -> None:
    found = shuffled_parts(clips)
    spectra = [sorted(map(tuple, each[0, 0].T.tolist())) for each in (clips, found)]
    assert spectra[0] == spectra[1]
    parts = {tuple(part.flatten().tolist()) for part in clips[0].tensor_split(8, -1)}
    assert {tuple(part.flatten().tolist()) for part in found[0].tensor_split(8, -1)} == parts


def test_low_and_high_bands_add_up_to_the_clip(clips: Tensor) -> None:
    assert torch.equal(low_bands(clips) + high_bands(clips), clips)
    assert low_bands(clips)[:, :, 6:].max() == 0
    assert high_bands(clips)[:, :, :6].max() == 0


def test_a_flat_spectrum_has_one_level_and_the_same_changes(clips: Tensor) -> None:
    found = flat_spectrum(clips)
    levels = mean_spectrum(found)
    assert (levels - levels.mean(1, keepdim=True)).abs().max() < 0.6
    before, after = (each[:, :, :, 4:-4].double().diff(dim=-1) for each in (clips, found))
    assert (before - after).abs().max() <= 1


def test_swapped_spectra_are_those_of_the_clip_before(clips: Tensor) -> None:
    found = mean_spectrum(swapped_spectrum(clips))
    assert (found - mean_spectrum(clips).roll(1, 0)).abs().max() < 0.6


def test_a_map_of_one_row_has_the_frequencies_along_it() -> None:
    steps = torch.arange(16)
    for cycles in (2, 8):
        wave = 1 + torch.cos(2 * math.pi * cycles * steps / 16)
        found = log_amplitudes(wave.expand(3, 4, 1, 16))
        assert len(found) == 9
        assert found.argmax() == 0
        assert found[1:].argmax() + 1 == cycles
        assert torch.equal(found, log_amplitudes(wave.expand(3, 4, 1, 16).transpose(2, 3)))


def test_the_field_of_a_sequence_counts_time_alone() -> None:
    clip = torch.randn(2, 1, 24, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.nn.functional.conv2d(clip, torch.ones(3, 1, 24, 4), stride=4)
    # A uniform field of 4 steps has the variance (4² − 1) / 12.
    (radius,) = field_radii([tokens], clip, sequence=True).tolist()
    assert radius == pytest.approx((15 / 12) ** 0.5, rel=1e-5)
    assert field_radii([tokens], clip).item() > 6  # 24 bands

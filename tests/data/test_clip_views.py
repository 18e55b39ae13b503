"""Random views of log-mel maps: what each augmentation does to a map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headsearch.config.audio_views import AudioViews, views_for_clips
from headsearch.config.normalization import of
from headsearch.data.audio.views import (
    LEVELS_TO_NEPER,
    cropped,
    faded,
    make_clip_views,
    mixed,
)
from headsearch.errors import UserError

SCALE = of([0.25], [0.2])
OFF = AudioViews(
    mixup=0, time_scale=(1, 1), frequency_scale=(1, 1), fader=0, noise=0, time_mask=0,
    frequency_mask=0,
)  # fmt: skip
MAPS = torch.randint(0, 256, (6, 1, 16, 32), generator=torch.Generator().manual_seed(1)).byte()


def views(settings: AudioViews, maps: Tensor = MAPS, part: tuple[int, int] = (0, 1)) -> Tensor:
    return make_clip_views(maps, torch.Generator().manual_seed(0), settings, 2, part, SCALE)


def changed(**settings: object) -> AudioViews:
    return AudioViews(**{**vars(OFF), **settings})  # type: ignore[arg-type]


def test_without_augmentations_a_view_is_the_normalised_map() -> None:
    expected = (MAPS.float() / 255 - 0.25) / 0.2
    torch.testing.assert_close(views(OFF), torch.stack([expected] * 2), atol=1e-4, rtol=0)


def test_views_are_a_function_of_the_generator_alone() -> None:
    assert torch.equal(views(AudioViews()), views(AudioViews()))
    first, second = views(AudioViews())
    assert not torch.equal(first, second)
    assert views(AudioViews()).isfinite().all()


def test_parts_of_a_batch_get_the_views_of_the_whole_but_for_what_is_mixed_in() -> None:
    settings = AudioViews(mixup=0)
    parts = [views(settings, MAPS[3 * p : 3 * p + 3], (p, 2)) for p in (0, 1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), views(settings))


def test_what_is_mixed_in_is_another_clip() -> None:
    silent, loud = MAPS.new_zeros(3, 1, 16, 32), MAPS.new_full((3, 1, 16, 32), 255)
    found = views(changed(mixup=0.9), torch.cat([silent, loud]))
    of_silent = found[:, :3].amax(dim=(2, 3, 4))
    assert (of_silent > -0.25 / 0.2 + 0.5).any(), "loud clips are heard in some silent ones"


def test_mixing_adds_powers() -> None:
    own, other = torch.rand(2, 5, 1, 4, 4, dtype=torch.float64)
    share = torch.linspace(0.01, 0.9, 5, dtype=torch.float64)
    power = (1 - share.view(-1, 1, 1, 1)) * (own * LEVELS_TO_NEPER).exp()
    power += share.view(-1, 1, 1, 1) * (other * LEVELS_TO_NEPER).exp()
    torch.testing.assert_close(mixed(own, other, share), power.log() / LEVELS_TO_NEPER)
    assert pytest.approx(23.02585) == LEVELS_TO_NEPER  # 100 dB in the natural logarithm


def test_a_crop_is_stretched_and_the_mean_lies_beyond_the_clip() -> None:
    ramp = torch.linspace(1, 2, 32).expand(1, 1, 16, 32)
    middle = cropped(ramp, torch.tensor([[0.25, 0.0, 0.5, 1.0]]))[0, 0, 0]
    torch.testing.assert_close(middle, torch.linspace(1.25, 1.75, 32), atol=0.02, rtol=0)
    wide = cropped(ramp, torch.tensor([[-0.5, 0.0, 2.0, 1.0]]))[0, 0, 0]
    assert wide[:7].abs().max() == 0
    assert wide[-7:].abs().max() == 0
    assert wide[9:23].min() > 0.9


def test_a_fader_goes_linearly_from_one_gain_to_another() -> None:
    gains = faded(torch.zeros(1, 1, 2, 5), torch.tensor([[-1.0, 1.0]]))
    assert gains[0, 0].tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 2


def test_masks_hide_at_most_their_share_of_time_and_of_bands() -> None:
    maps = torch.full((200, 1, 10, 20), 255, dtype=torch.uint8)
    time = (views(changed(time_mask=0.5), maps) == 0).all(dim=3).float().mean(dim=-1)
    bands = (views(changed(frequency_mask=0.3), maps) == 0).all(dim=4).float().mean(dim=-1)
    assert time.max() <= 0.5
    assert 0.2 < time.mean() < 0.3
    assert bands.max() <= 0.3 + 1e-6
    assert 0.1 < bands.mean() < 0.2


def test_noise_has_at_most_the_deviation_that_is_asked_for() -> None:
    maps = torch.full((64, 1, 32, 32), 100, dtype=torch.uint8)
    deviation = views(changed(noise=4.0), maps).flatten(2).std(dim=2)
    in_decibel = deviation * 0.2 * 100
    assert in_decibel.max() < 4.4
    assert 1.5 < in_decibel.mean() < 2.5


def test_a_setting_is_read_back_from_its_text() -> None:
    asked = views_for_clips("published,mixup=0.2,time_scale=0.8/1.2,fader=0")
    assert asked == AudioViews(mixup=0.2, time_scale=(0.8, 1.2), fader=0.0)
    assert views_for_clips(str(asked)) == asked
    assert views_for_clips("auto") == AudioViews()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("small", "unknown name of views 'small'"),
        ("flip=0.5", "no setting 'flip'"),
        ("mixup=2", "mixup must be a share"),
        ("time_scale=2/1", "time_scale must be low/high"),
        ("fader", "unknown name of views"),
        ("noise=loud", "should be like noise=3.0"),
    ],
)
def test_a_wrong_text_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        views_for_clips(text)

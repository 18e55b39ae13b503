"""Views are what their settings say: each operation against torchvision, each draw by its law."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as tv

from headsearch.config.normalization import IMAGENET
from headsearch.data.image.views import (
    ViewSettings,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_and_resize,
    crop_boxes,
    finish_views,
    gaussian_blur,
    make_views,
    normalize,
    solarize,
)
from headsearch.errors import UserError

NOTHING = ViewSettings(
    crop_scale=(1.0, 1.0), flip=0, jitter=(0, 0, 0, 0), grayscale=0, blur=(0,), solarize=(0,)
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    """(6, 3, 32, 32) in [0, 1]: noise, plus pure greys and saturated corners of the RGB cube."""
    x = torch.rand(6, 3, 32, 32, generator=generator())
    x[4] = x[4, :1]
    x[5] = x[5].round()
    return x


@pytest.fixture
def factors() -> torch.Tensor:
    return torch.tensor([0.6, 0.8, 1.0, 1.2, 1.4, 0.0])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, tv.adjust_brightness),
        (adjust_contrast, tv.adjust_contrast),
        (adjust_saturation, tv.adjust_saturation),
    ],
)
def test_each_image_gets_its_own_factor_as_torchvision_applies_it(ours, theirs, images, factors):
    expected = torch.stack([theirs(x, float(f)) for x, f in zip(images, factors, strict=True)])
    torch.testing.assert_close(ours(images, factors), expected, atol=1e-5, rtol=0)


def test_hue_turns_as_in_torchvision(images):
    turns = torch.tensor([-0.5, -0.1, 0.0, 0.05, 0.1, 0.3])
    expected = torch.stack([tv.adjust_hue(x, float(t)) for x, t in zip(images, turns, strict=True)])
    torch.testing.assert_close(adjust_hue(images, turns), expected, atol=1e-5, rtol=0)


def test_saturation_of_zero_is_torchvisions_grayscale(images):
    expected = tv.rgb_to_grayscale(images, num_output_channels=3)
    torch.testing.assert_close(
        adjust_saturation(images, torch.zeros(6)), expected, atol=1e-5, rtol=0
    )


def test_solarize_inverts_bright_pixels_of_the_chosen_images(images):
    chosen = torch.tensor([True, False] * 3)
    expected = images.clone()
    expected[::2] = tv.solarize(images[::2], threshold=0.5)
    torch.testing.assert_close(solarize(images, chosen), expected, atol=0, rtol=0)


@pytest.mark.parametrize(("size", "kernel"), [(64, 7), (96, 9)])
def test_blur_has_each_images_own_sigma(size, kernel):
    x = torch.rand(4, 3, size, size, generator=generator())
    sigmas = torch.tensor([0.1, 0.7, 2.0, 1.0])
    blurred = gaussian_blur(x, sigmas, torch.tensor([True, True, True, False]))
    for i in range(3):
        expected = tv.gaussian_blur(x[i], [kernel, kernel], [float(sigmas[i])] * 2)
        torch.testing.assert_close(blurred[i], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(blurred[3], x[3], atol=1e-6, rtol=0)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 32, 32), (3, 7, 16, 20), (12, 0, 20, 32), (5, 5, 8, 8)])
def test_crops_are_resized_bilinearly_and_flipped(images, box, flipped):
    left, top, width, height = box
    expected = tv.resized_crop(
        images, top, left, height, width, [32, 32], tv.InterpolationMode.BILINEAR, antialias=False
    )
    if flipped:
        expected = tv.hflip(expected)
    boxes = (torch.tensor(box) / 32).expand(6, 4)
    got = crop_and_resize(images, boxes, torch.full((6,), flipped))
    # torchvision cuts the crop out first and so repeats its outermost pixels, where we
    # interpolate with the real neighbours: the same but for less than a pixel of the crop.
    x, y = math.ceil(16 / width), math.ceil(16 / height)
    inner = (..., slice(y, 32 - y), slice(x, 32 - x))
    torch.testing.assert_close(got[inner], expected[inner], atol=2e-5, rtol=0)
    if box == (0, 0, 32, 32):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_crop_areas_are_uniform_and_ratios_log_uniform_inside_the_image():
    draws = torch.rand(4, 20_000, generator=generator()).double()
    boxes = crop_boxes(*draws, scale=(0.2, 0.5), ratio=(3 / 4, 4 / 3))
    left, top, width, height = boxes.unbind(1)
    assert bool((boxes >= 0).all())
    assert bool((left + width <= 1 + 1e-9).all())
    assert bool((top + height <= 1 + 1e-9).all())
    assert stats.kstest((width * height).numpy(), stats.uniform(0.2, 0.3).cdf).pvalue > 0.01
    law = stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3))  # no area of 0.5 bounds these
    assert stats.kstest((width / height).log().numpy(), law.cdf).pvalue > 0.01
    assert stats.kstest((left / (1 - width)).numpy(), "uniform").pvalue > 0.01


def test_large_crops_keep_their_area_and_the_ratios_that_fit():
    draws = torch.rand(4, 20_000, generator=generator(1)).double()
    boxes = crop_boxes(*draws, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3))
    _, _, width, height = boxes.unbind(1)
    assert stats.kstest((width * height).numpy(), stats.uniform(0.2, 0.8).cdf).pvalue > 0.01
    assert bool((torch.maximum(width, height) <= 1).all())
    ratio = width / height
    assert bool(((ratio >= 3 / 4 - 1e-9) & (ratio <= 4 / 3 + 1e-9)).all())


def test_normalize_is_the_imagenet_normalisation():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=generator())
    expected = tv.normalize(images.double() / 255, list(IMAGENET.mean), list(IMAGENET.std)).float()
    torch.testing.assert_close(normalize(images), expected, atol=1e-6, rtol=1e-6)


def test_no_augmentation_gives_the_normalised_images():
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator())
    views = make_views(images, generator(), NOTHING, count=3)
    assert views.shape == (3, 5, 3, 32, 32)
    assert views.dtype == torch.float32
    for view in views:
        torch.testing.assert_close(view, normalize(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"flip": 0.3}, 0.3),
        ({"grayscale": 0.3}, 0.3),
        ({"solarize": (0.3,)}, 0.3),
        ({"jitter": (0.4, 0, 0, 0), "jitter_probability": 0.3}, 0.3),
        ({"jitter": (0, 0.4, 0, 0), "jitter_probability": 0.3}, 0.3),
        ({"jitter": (0, 0, 0.2, 0), "jitter_probability": 0.3}, 0.3),
        ({"jitter": (0, 0, 0, 0.1), "jitter_probability": 0.3}, 0.3),
        ({"blur": (0.3,), "blur_sigma": (1.0, 2.0)}, 0.3),
    ],
)
def test_each_operation_happens_as_often_as_set(setting, expected):
    image = torch.randint(20, 235, (1, 3, 8, 8), dtype=torch.uint8, generator=generator())
    images = image.repeat(1000, 1, 1, 1)
    settings = ViewSettings(**{**vars(NOTHING), **setting})
    views = make_views(images, generator(), settings)
    changed = (views - normalize(images)).abs().amax(dim=(2, 3, 4)) > 2e-3
    # 2,000 draws: a standard error of 0.0102; the jitter's near-1 factors change too little to see.
    assert float(changed.float().mean()) == pytest.approx(expected, abs=0.04)
    assert not bool((changed[0] == changed[1]).all()), "two views of an image are drawn apart"


@pytest.mark.parametrize("name", ["blur", "solarize"])
def test_each_view_has_its_own_probability(name):
    images = torch.randint(20, 235, (40, 3, 32, 32), dtype=torch.uint8, generator=generator())
    settings = ViewSettings(**{**vars(NOTHING), name: (0.0, 1.0), "blur_sigma": (1.0, 2.0)})
    change = (make_views(images, generator(), settings) - normalize(images)).abs()
    changed = change.amax(dim=(2, 3, 4)) > 0.05
    assert not changed[0].any()
    assert changed[1].all()


def test_crops_cut_before_are_flipped_and_coloured_as_those_cut_here():
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator())
    settings = ViewSettings(
        **{**vars(ViewSettings()), "crop_scale": (1.0, 1.0), "crop_ratio": (1, 1)}
    )
    here = make_views(images, generator(1), settings)
    before = finish_views(images.expand(2, -1, -1, -1, -1), generator(1), settings)
    assert (here - before).abs().max() < 1e-4, "a crop of the whole image is the image"


def test_views_depend_on_the_generator_alone():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    settings = ViewSettings(solarize=(0.2,), blur=(0.5,))
    before = torch.get_rng_state()
    state = generator(3)
    first, second = (make_views(images, state, settings) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert torch.equal(first, make_views(images, generator(3), settings))
    assert not torch.equal(first, second)
    assert bool(first.isfinite().all())


def test_a_setting_does_not_shift_the_draws_of_others():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    crops = ViewSettings(**{**vars(NOTHING), "crop_scale": (0.2, 1.0)})
    solarized = ViewSettings(**{**vars(crops), "solarize": (0.5,)})
    plain, other = (make_views(images, generator(), s) for s in (crops, solarized))
    same = (plain == other).flatten(2).all(dim=2)
    assert 0 < int(same.sum()) < 8


def test_views_run_on_the_meta_device():
    images = torch.empty(4, 3, 64, 64, dtype=torch.uint8, device="meta")
    views = make_views(images, None, ViewSettings(solarize=(0.2,)))
    assert views.is_meta
    assert views.shape == (2, 4, 3, 64, 64)
    assert normalize(images).is_meta


@pytest.mark.parametrize(
    "bad",
    [
        {"flip": 1.5},
        {"blur": (-0.1,)},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 0.2)},
        {"crop_ratio": (1.1, 1.3)},
        {"jitter": (0.4, 0.4, 0.4, 0.6)},
        {"blur_sigma": (2.0, 1.0)},
    ],
)
def test_settings_out_of_range_are_refused_by_name(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        ViewSettings(**bad)

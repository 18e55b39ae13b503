"""The built-in dataset: the same scenes for everyone, honest labels, nothing for free."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from headsearch.data.image.synthetic.counter_rng import CounterRng, mix
from headsearch.data.image.synthetic.scenes import CLASSES, Scenes, generate_scenes
from headsearch.data.image.synthetic.shapes import PATTERNS, edge, rosette, rounded_box
from headsearch.errors import UserError
from headsearch.evaluation.proxies.knn import accuracy, knn_predict

CLASS_COUNT = 10


def assert_same(a: Scenes, b: Scenes) -> None:
    for field in fields(Scenes):
        assert torch.equal(getattr(a, field.name), getattr(b, field.name)), field.name


def part(scenes: Scenes, wanted: slice) -> Scenes:
    return Scenes(*(getattr(scenes, field.name)[wanted] for field in fields(Scenes)))


@pytest.fixture(scope="module")
def many() -> Scenes:
    return generate_scenes(1500, 32, seed=3)


@pytest.mark.parametrize(("size", "start", "count"), [(32, 50, 50), (32, 117, 30), (48, 3, 9)])
def test_a_part_is_the_same_as_that_part_of_the_whole(size: int, start: int, count: int) -> None:
    whole = generate_scenes(start + count, size, seed=0)
    assert_same(generate_scenes(count, size, seed=0, start=start), part(whole, slice(start, None)))


def test_a_seed_gives_the_same_scenes_and_another_seed_gives_others() -> None:
    first, again, other = (generate_scenes(20, 32, seed=seed) for seed in (7, 7, 8))
    assert_same(first, again)
    assert not torch.equal(first.labels, other.labels)
    difference = (first.images.float() - other.images.float()).abs().mean((1, 2, 3))
    assert (difference > 5).all()


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    assert len(generate_scenes(1, 16, seed=seed).images) == 1


@pytest.mark.parametrize("size", [16, 33, 224])
def test_shapes_and_types(size: int) -> None:
    scenes = generate_scenes(3, size, seed=0)
    assert (scenes.images.shape, scenes.images.dtype) == ((3, 3, size, size), torch.uint8)
    assert (scenes.labels.shape, scenes.labels.dtype) == ((3,), torch.int64)
    assert (scenes.masks.shape, scenes.masks.dtype) == ((3, size, size), torch.uint8)
    assert (scenes.boxes.shape, scenes.boxes.dtype) == ((3, 4), torch.float32)


def test_every_ten_scenes_show_every_class_in_no_fixed_order(many: Scenes) -> None:
    assert len(CLASSES) == len(set(CLASSES)) == CLASS_COUNT
    tens = many.labels.view(-1, CLASS_COUNT)
    assert torch.equal(tens.sort(dim=1).values, torch.arange(CLASS_COUNT).expand_as(tens))
    assert len(tens.unique(dim=0)) > 0.99 * len(tens)


def test_a_scene_is_the_same_at_every_size() -> None:
    small, large = (generate_scenes(40, size, seed=1) for size in (32, 128))
    assert torch.equal(small.labels, large.labels)
    shrunk = torch.nn.functional.avg_pool2d(large.images.float(), 4)
    same = (shrunk - small.images).abs().mean()
    assert same < 6  # of 255: what two ways of smoothing edges may differ by
    assert (shrunk.roll(1, 0) - small.images).abs().mean() > 5 * same
    moved = (small.boxes - large.boxes / 4).abs()
    # Now and then a sliver beside an occluder fills no small pixel, and a side jumps over it.
    assert (moved > 1).float().mean() < 0.03
    assert moved.mean() < 0.5


def test_boxes_enclose_the_visible_thing_exactly(many: Scenes) -> None:
    for mask, box in zip(many.masks[:300].numpy(), many.boxes[:300].tolist(), strict=True):
        rows, columns = np.nonzero(mask == 1)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_the_thing_is_visible_and_partly_covered_at_times(many: Scenes) -> None:
    share = (many.masks == 1).float().mean((1, 2))
    assert share.min() > 0.08
    assert 0.3 < share.mean() < 0.75
    assert set(many.masks.unique().tolist()) == {0, 1, 2, 3, 4, 5}
    covered = (many.masks == 5).flatten(1).any(1).float().mean()
    assert 0.5 < covered < 0.7  # six scenes in ten, less the few that fall outside the image


def test_the_mask_is_where_the_thing_is() -> None:
    """A plain thing has one tint: pixels just inside its mask differ from those just outside."""
    scenes = generate_scenes(300, 64, seed=5)
    plain = scenes.labels == CLASSES.index("plain")
    masks, images = scenes.masks[plain], scenes.images[plain].float()
    spread = []
    for mask, image in zip(masks, images, strict=True):
        inside, setup = image[:, mask == 1], image[:, mask == 0]
        if setup.shape[1] > 200:
            gap = (inside.mean(1) - setup.mean(1)).norm()
            spread.append((gap / inside.std(1).norm()).item())
    assert len(spread) > 10
    assert np.median(spread) > 2


def test_nothing_but_the_pattern_depends_on_the_class(many: Scenes) -> None:
    """Size, place and light of the thing: class means within chance of each other (F-test)."""
    boxes = many.boxes
    traits = {
        "area": (many.masks == 1).float().mean((1, 2)),
        "x": boxes[:, 0] + boxes[:, 2],
        "y": boxes[:, 1] + boxes[:, 3],
        "clutter": (many.masks > 1).float().mean((1, 2)),
        "ground": (many.images.float().mean(1) * (many.masks == 0)).sum((1, 2)),
    }
    for name, trait in traits.items():
        groups = torch.stack([trait[many.labels == c] for c in range(CLASS_COUNT)]).double()
        between = groups.mean(1).var() * groups.shape[1]
        ratio = between / groups.var(1).mean()
        assert ratio < 3.2, name  # the 0.999 quantile of F(9, 1490) is 3.12


def test_colour_says_little_and_raw_pixels_not_much_about_the_class(many: Scenes) -> None:
    pixels = many.images.float() / 255 - 0.5
    for name, features, ceiling in (
        ("mean colour", pixels.mean((2, 3)), 0.25),
        ("raw pixels", pixels.flatten(1), 0.45),
    ):
        predicted = knn_predict(features[:1000], many.labels[:1000], features[1000:], CLASS_COUNT)
        assert accuracy(predicted, many.labels[1000:]) < ceiling, name


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"image_size": 15}, "image size must be at least 16, got 15"),
        ({"start": -1}, "start must be at least 0, got -1"),
    ],
)
def test_bad_requests_end_in_one_clear_line(bad: dict[str, int], message: str) -> None:
    request = {"count": 1, "image_size": 32, "seed": 0, "start": 0} | bad
    with pytest.raises(UserError, match=message):
        generate_scenes(**request)


def test_mix_is_splitmix64() -> None:
    # The generator's published first outputs from state 0.
    golden = 0x9E3779B97F4A7C15
    states = np.array([(i * golden) % 2**64 for i in range(3)], dtype=np.uint64)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix(states).tolist() == expected


def test_numbers_are_uniform_independent_and_the_same_for_a_scene_in_any_company() -> None:
    scenes = np.arange(4000, dtype=np.uint64)
    rng = CounterRng(0, scenes)
    numbers = torch.stack([rng.uniform(0, 1) for _ in range(8)])
    ranks = numbers.sort(dim=1).values
    uniform = (torch.arange(4000) + 0.5) / 4000
    # Kolmogorov-Smirnov at 1e-4, eight times over
    assert (ranks - uniform).abs().max() < 2.23 / math.sqrt(4000)
    correlation = torch.corrcoef(numbers).fill_diagonal_(0)
    assert correlation.abs().max() < 4.5 / math.sqrt(4000)
    alone = CounterRng(0, scenes[77:78])
    assert torch.equal(torch.stack([alone.uniform(0, 1) for _ in range(8)])[:, 0], numbers[:, 77])


def grid(size: int, half: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """u and v (1, S, S) over [−half, half]², and the width of a pixel."""
    ticks = (torch.arange(size) + 0.5) * (2 * half / size) - half
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    return u[None], v[None], 2 * half / size


def number(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1), float(value))


@pytest.mark.parametrize("points", [3, 4, 5, 8])
def test_a_rosette_has_the_area_of_its_polygon_or_disc(points: int) -> None:
    u, v, pixel = grid(200, 1.2)
    polygon = edge(rosette(u, v, number(points), number(0), number(0)), pixel).sum() * pixel**2
    assert polygon.item() == pytest.approx(points / 2 * math.sin(2 * math.pi / points), rel=5e-3)
    disc = edge(rosette(u, v, number(points), number(0), number(1)), pixel).sum() * pixel**2
    assert disc.item() == pytest.approx(math.pi * 0.88**2, rel=5e-3)
    notched = edge(rosette(u, v, number(points), number(0.2), number(0)), pixel).sum() * pixel**2
    assert notched < 0.93 * polygon


def test_a_rounded_box_has_its_area() -> None:
    u, v, pixel = grid(200, 1.2)
    area = edge(rounded_box(u, v, number(0.9), number(0.5), number(0.3)), pixel).sum() * pixel**2
    expected = 4 * 0.9 * 0.5 - (4 - math.pi) * 0.3**2
    assert area.item() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_coarse_pattern_is_the_average_of_a_fine_one(name: str) -> None:
    """Anti-aliasing against brute force: 4 pixels a period against 64, averaged."""
    coarse_u, coarse_v, coarse_pixel = grid(32, 4.0)
    fine_u, fine_v, fine_pixel = grid(512, 4.0)
    coarse = PATTERNS[name](coarse_u, coarse_v, number(coarse_pixel))
    fine = PATTERNS[name](fine_u, fine_v, number(fine_pixel))
    assert coarse.min() >= 0
    assert coarse.max() <= 1
    averaged = torch.nn.functional.avg_pool2d(fine, 16)
    assert (coarse - averaged).abs().mean() < 0.05


@pytest.mark.parametrize("name", sorted(set(PATTERNS) - {"plain", "speckled"}))
def test_the_inks_of_a_pattern_share_the_surface_about_equally(name: str) -> None:
    u, v, pixel = grid(256, 12.0)
    assert PATTERNS[name](u, v, number(pixel)).mean().item() == pytest.approx(0.5, abs=0.06)

"""Random crops are cut from whole photos, at their own resolution, and depend on seed and step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from headsearch import torchrun
from headsearch.config.settings import RunConfig
from headsearch.config.views import ViewSettings, views_for
from headsearch.data.image.decode import BadImage
from headsearch.data.image.photo_sets import Photos, PhotosInMemory, PhotosOnDemand
from headsearch.data.image.photos import (
    Cut,
    PhotoReader,
    crop_box,
    cut_out,
    evaluation_view,
    resized,
)  # fmt: skip
from headsearch.data.image.readers import open_path
from headsearch.data.image.views import crop_boxes
from headsearch.data.loader import Loader, StepReader
from helpers.image_files import encoded, open_small, photo, write

CPU = torch.device("cpu")
VIEWS = ViewSettings(crop_scale=(0.08, 1.0))
WHOLE = ViewSettings(crop_scale=(1.0, 1.0), crop_ratio=(0.1, 10.0))
S = 32


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """48 photos of two classes, wide and high ones."""
    files = {
        f"{'cat' if n % 2 else 'dog'}/{n:03d}.jpg": encoded(
            photo(n, *((120, 80) if n % 3 else (70, 110))), "JPEG", quality=95
        )
        for n in range(100)
    }
    return write(tmp_path / "album", files)


def draws(count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random((count, 4))


def test_on_squares_a_crop_is_that_of_small_images():
    some = draws(500)
    expected = crop_boxes(*torch.from_numpy(some.T), VIEWS.crop_scale, VIEWS.crop_ratio)
    boxes = torch.tensor([crop_box(each, 1.0, VIEWS) for each in some], dtype=torch.float64)
    assert torch.allclose(boxes, expected, atol=1e-12)


@pytest.mark.parametrize("aspect", [0.2, 0.66, 1.5, 2.4, 6.0])
def test_a_crop_lies_inside_and_has_an_allowed_shape(aspect):
    boxes = np.array([crop_box(each, aspect, VIEWS) for each in draws(2000)])
    left, top, width, height = boxes.T
    assert boxes.min() >= 0
    assert (left + width).max() <= 1 + 1e-9
    assert (top + height).max() <= 1 + 1e-9
    ratio = width / height * aspect
    assert ratio.min() >= 3 / 4 - 1e-9
    assert ratio.max() <= 4 / 3 + 1e-9
    if aspect in (0.66, 1.5):
        area = np.array([crop_box(each, aspect, replace(VIEWS, crop_scale=(0.08, 0.8))) for each in
                         draws(2000)])[:, 2:].prod(axis=1)  # fmt: skip
        assert abs(area.mean() - 0.44) < 0.015, "uniform between 8 and 80 %"


def test_every_part_of_a_photo_is_seen():
    seen = np.zeros((80, 120), bool)
    for each in draws(300):
        left, top, width, height = crop_box(each, 1.5, VIEWS)
        seen[
            round(top * 80) : round((top + height) * 80),
            round(left * 120) : round((left + width) * 120),
        ] = True
    assert seen.mean() > 0.97


def test_photos_in_memory_keep_their_shape(album: Path):
    reader = PhotoReader(open_path(album, "album"), S, 56)
    assert {reader.stored(n).shape for n in range(100)} == {(56, 84, 3), (88, 56, 3)}
    larger = PhotoReader(open_path(album, "album"), S, 100)
    assert {larger.stored(n).shape for n in range(100)} == {(80, 120, 3), (110, 70, 3)}


def test_crops_agree_with_pillow(album: Path):
    image = photo(3, 400, 300)
    some = draws(20)
    views = replace(VIEWS, interpolation="bicubic")
    for crop, each in zip(cut_out(np.array(image), Cut(S, some, views)), some, strict=True):
        left, top, width, height = crop_box(each, 4 / 3, views)
        first, above = round(left * 400), round(top * 300)
        box = (first, above, first + round(width * 400), above + round(height * 300))
        expected = np.array(image.resize((S, S), Image.Resampling.BICUBIC, box=box))
        assert np.abs(crop.transpose(1, 2, 0) - expected.astype(float)).mean() < 0.6


def test_a_small_crop_is_sharp(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    root = write(tmp_path / "set", {"a.png": encoded(Image.fromarray(noise))})
    reader = PhotoReader(open_path(root, "set"), 64, 112)
    sixteenth = ViewSettings(crop_scale=(1 / 16, 1 / 16), crop_ratio=(1, 1))
    crop = reader.crops(0, [Cut(64, draws(1), sixteenth)])[0][0].astype(float)
    square = resized(noise, (64, 64), "bicubic").astype(float)
    assert crop.std() > 20, "128 pixels become 64"
    assert square.std() < 15, "512 pixels become 64: little is left of the noise"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_cropped_upright(tmp_path: Path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(photo(1), "JPEG", quality=95, exif=exif.tobytes())
    file = write(tmp_path / "set", {"a.jpg": data}) / "a.jpg"
    reader = PhotoReader(open_path(file.parent, "set"), S, 200)
    upright = np.array(ImageOps.exif_transpose(Image.open(file)))
    assert np.array_equal(reader.evaluated(0), evaluation_view(upright, S))
    two = Cut(S, draws(2), VIEWS)
    assert np.array_equal(reader.crops(0, [two])[0], cut_out(upright, two))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "LA", "RGBA"])
def test_every_kind_of_image_can_be_cropped(tmp_path: Path, mode):
    kind = "JPEG" if mode in ("RGB", "L", "CMYK") else "PNG"
    data = encoded(photo(2).convert(mode), kind)
    source = open_path(write(tmp_path / "set", {f"a.{kind.lower()}": data}), "set")
    (crops,) = PhotoReader(source, S, 56).crops(0, [Cut(S, draws(3), WHOLE)])
    squares = resized(np.array(photo(2).convert(mode).convert("RGB")), (S, S), "bilinear")
    assert np.abs(crops[0].transpose(1, 2, 0) - squares.astype(float)).mean() < 6


def test_a_large_jpeg_is_decoded_scaled_and_looks_the_same(tmp_path: Path):
    data = encoded(photo(4, 2000, 1500), "JPEG", quality=95)
    png = encoded(photo(4, 2000, 1500))
    root = write(tmp_path / "set", {"a.jpg": data, "b.png": png})
    reader = PhotoReader(open_path(root, "set"), S, 56)
    scaled, whole = (reader.crops(i, [Cut(S, draws(8), VIEWS)])[0].astype(float) for i in (0, 1))
    assert np.abs(scaled - whole).mean() < 1.5


@pytest.mark.parametrize("damage", [lambda data: data[:600], lambda data: b"", lambda _: b"text"])
def test_a_damaged_photo_is_bad(tmp_path: Path, damage):
    data = damage(encoded(photo(1), "JPEG"))
    source = open_path(write(tmp_path / "set", {"a.jpg": data}), "set")
    with pytest.raises(BadImage):
        PhotoReader(source, S, 56).crops(0, [Cut(S, draws(2), VIEWS)])


class TestSets:
    def test_photos_are_recognised_and_small_squares_are_not(self, album: Path, tmp_path: Path):
        data = open_small(album, image_size=S)
        assert isinstance(data.train, PhotosInMemory)
        assert any("photos" in note for note in data.notes)
        squares = {f"a/{n}.png": encoded(photo(n, S, S)) for n in range(80)}
        small = open_small(write(tmp_path / "small", squares), image_size=S)
        assert not isinstance(small.train, Photos)

    def test_evaluation_sees_the_centre(self, tmp_path: Path):
        files = {f"{n}.png": encoded(photo(n, 96, 64)) for n in range(80)}
        data = open_small(write(tmp_path / "set", files), image_size=56)
        found = data.queries.batch(torch.arange(len(data.queries))).numpy()
        crops = [np.array(photo(n, 96, 64))[4:60, 20:76].transpose(2, 0, 1) for n in range(80)]
        for view in found:  # 224/256 of 64 pixels are 56, so nothing is resized
            assert any(np.array_equal(view, crop) for crop in crops)

    def test_a_copy_of_a_training_photo_is_still_found(self, album: Path, tmp_path: Path):
        copies = {f.name: f.read_bytes() for f in sorted((album / "cat").iterdir())[:40]}
        others = {f"dog/x{n}.jpg": encoded(photo(500 + n), "JPEG") for n in range(20)}
        files = others | {f"cat/{name}": data for name, data in copies.items()}
        held = write(tmp_path / "held", files)
        data = open_small(album, held, image_size=S, eval_images=0)
        assert any("copies of training" in warning for warning in data.warnings)

    def test_on_demand_and_in_memory_differ_by_a_resize_alone(self, album: Path):
        views = views_for("published", "byol", S)
        held, lazy = (
            open_small(album, image_size=S, memory_limit=limit, store_size=200).train
            for limit in (10**9, 10_000)
        )
        assert isinstance(held, PhotosInMemory)
        assert isinstance(lazy, PhotosOnDemand)
        random = np.random.default_rng(0).random
        two, local = Cut(S, random((2, 5, 4)), views), Cut(16, random((3, 5, 4)), VIEWS)
        one, other = (each.crops(torch.arange(5), [two, local])[0] for each in (held, lazy))
        assert [crops.shape for crops in one] == [(2, 5, 3, S, S), (3, 5, 3, 16, 16)]
        for mine, its in zip(one, other, strict=True):
            assert torch.equal(mine, its), "photos are smaller than 200 pixels: nothing is resized"
        assert torch.equal(held.batch(torch.arange(5)), lazy.batch(torch.arange(5)))


def config(**settings: object) -> RunConfig:
    return RunConfig(batch_size=8, epochs=2, lr=1e-3, views="published", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [10**9, 10_000], ids=["in memory", "on demand"])
def test_views_are_the_same_whatever_reads_them(album: Path, limit):
    train = open_small(album, image_size=S, memory_limit=limit).train
    threads, processes = (Loader(train, config(workers=w), CPU) for w in (0, 2))
    for step in (0, 1, 2, 5, 1):  # also going back
        views = threads.crops(step)
        assert views.shape == (2, 8, 3, S, S)
        assert torch.equal(views, processes.crops(step))
    assert not torch.equal(threads.crops(0), threads.crops(1))


def test_crops_of_a_photo_differ_between_views_images_and_steps(tmp_path: Path):
    same = encoded(photo(1), "JPEG", quality=95)
    root = write(tmp_path / "set", {f"{n}.jpg": same for n in range(100)})
    reader = StepReader(open_small(root, image_size=S).train, config(), VIEWS)
    first, later = (reader.photos(step).crops[0] for step in (0, 1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0, 0], first[0, 1])
    assert not torch.equal(first, later)
    assert torch.equal(first, reader.photos(0).crops[0])


def test_ranks_see_together_what_one_process_sees(album: Path, monkeypatch: pytest.MonkeyPatch):
    train = open_small(album, image_size=S).train
    whole = Loader(train, config(), CPU).crops(3)
    monkeypatch.setattr(torchrun, "count", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(torchrun, "rank", lambda rank=rank: rank)
        parts.append(Loader(train, config(), CPU).crops(3))
    assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_turns_bad_is_replaced_and_listed(album: Path, workers):
    data = open_small(album, image_size=S, memory_limit=10_000, max_bad_images=0.5)
    for file in sorted((album / "cat").iterdir())[:10]:
        file.write_bytes(b"gone")
    loader = Loader(data.train, config(workers=workers), CPU)
    for step in range(loader.steps):
        assert bool(loader.crops(step).isfinite().all())
    assert isinstance(data.train, PhotosOnDemand)
    assert 0 < len(data.train.bad) <= 10
    assert len(data.left_out.lines) == len(data.train.bad)

"""Images of more than 8 bits, TIFFs of many bands, and damaged EXIF: what becomes of them."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headsearch.data.image.decode import decode, open_image
from headsearch.data.image.wide_values import NOMINAL, Scale, ends_of, measured
from helpers.image_files import SIZE, class_files, encoded, open_small, write
from helpers.wide_files import png_16, tiff

RNG = np.random.default_rng(0)

Writer = Callable[[np.ndarray], bytes]


def grey_png(values_HW: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values_HW))


def grey_tiff(values_HW: np.ndarray) -> bytes:
    return tiff(values_HW[..., None])


def colour(values_HW: np.ndarray) -> np.ndarray:
    return np.stack([values_HW, values_HW[::-1], values_HW.T], axis=-1)


# what the values are: type, lowest, highest; and what writes a file of them
SETS: dict[str, tuple[str, float, float, Writer]] = {
    "10 of 16 bits": ("u2", 0, 1023, grey_png),
    "12 of 16 bits in a TIFF": ("u2", 0, 4095, grey_tiff),
    "CT with an offset": ("u2", 31768, 35000, grey_png),
    "CT with negative values": ("i2", -1024, 3071, grey_tiff),
    "32 bits": ("i4", -5000, 90_000, grey_tiff),
    "floating point": ("f4", -0.2, 0.7, grey_tiff),
    "12-bit colours in a PNG": ("u2", 0, 4095, lambda values: png_16(colour(values))),
    "12-bit colours in a TIFF": ("u2", 0, 4095, lambda values: tiff(colour(values))),
    "12-bit colours, Motorola": ("u2", 0, 4095, lambda values: tiff(colour(values), order=">")),
}


@pytest.mark.parametrize("case", SETS)
def test_a_set_has_one_scale_from_the_range_that_it_uses(case: str, tmp_path: Path) -> None:
    kind, low, high, encode = SETS[case]
    files = {}
    for number in range(70):
        # The brightness of an image must survive: images cannot each have a scale of their own.
        top = low + (high - low) * (number + 8) / 77
        values = np.linspace(low, top, SIZE * SIZE).reshape(SIZE, SIZE).astype(kind)
        files[f"{number:02d}.{'png' if 'PNG' in case or encode is grey_png else 'tif'}"] = encode(
            values
        )
    data = open_small(write(tmp_path / "set", files), images=0)
    assert any("are scaled to 8 bits from the range" in note for note in data.notes)
    assert data.warnings == ()
    pixels = torch.cat([s.batch(torch.arange(len(s))) for s in (data.train, data.queries)])
    assert int(pixels.min()) == 0
    assert int(pixels.max()) == 255
    tops = sorted(int(image.max()) for image in pixels)
    assert abs(tops[35] - 255 * 43 / 77) <= 4, "images keep their brightness"


def test_all_16_bits_keep_their_scale(tmp_path: Path) -> None:
    values = np.linspace(0, 50_000, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    files = {f"{i}.png": grey_png(np.roll(values, i)) for i in range(70)}
    data = open_small(write(tmp_path / "set", files))
    assert not any("scaled" in note for note in data.notes)
    assert int(data.train.batch(torch.tensor([0])).max()) == round(50_000 / 257)


def test_the_evaluation_images_have_the_scale_of_the_training_images(tmp_path: Path) -> None:
    def files(top: int) -> dict[str, bytes]:
        values = np.linspace(0, top, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
        return {f"{i}.png": grey_png(np.roll(values, i)) for i in range(70)}

    data = open_small(write(tmp_path / "t", files(4000)), write(tmp_path / "v", files(2000)))
    assert abs(int(data.queries.batch(torch.tensor([0])).max()) - 128) <= 1


def test_16_bit_colours_are_read_with_both_bytes() -> None:
    values = RNG.integers(0, 1024, (SIZE, SIZE, 3), dtype=np.uint16)
    scale = Scale({"colours of 16 bits": (0.0, 1023.0)})
    for data in (png_16(values), tiff(values), tiff(values, order=">")):
        expected = (values / 1023 * 255).round().transpose(2, 0, 1)
        assert np.array_equal(decode(data, SIZE, scale), expected)


def test_dead_pixels_do_not_set_the_range() -> None:
    values = RNG.integers(0, 1000, (64, 64), dtype=np.uint16)
    values[3, 3] = 65535
    found = ends_of(open_image(grey_png(values)))
    assert found is not None
    ((low, high),) = measured([found]).ranges.values()
    assert low < 10
    assert 900 < high < 1000
    assert ends_of(open_image(encoded(Image.new("RGB", (8, 8))))) is None
    assert NOMINAL.notes("set") == ()


@pytest.mark.parametrize("extra", [None, [0], [2]])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_a_fourth_band_is_not_taken_for_transparency(
    extra: list[int] | None, kind: str, tmp_path: Path
) -> None:
    values = RNG.integers(0, 256, (SIZE, SIZE, 4)).astype(kind)
    values[..., 3] = 0  # infra-red: nothing there
    if kind == "u2":
        values *= 257
    data = tiff(values, extra)
    seen = decode(data, SIZE).astype(int)
    expected = values[..., :3].transpose(2, 0, 1) / (257 if kind == "u2" else 1)
    assert np.abs(seen - expected).max() <= 1
    files = {f"{i}.tif": tiff(np.roll(values, i, 0), extra) for i in range(70)}
    root = write(tmp_path / "set", files)
    assert any("further bands" in note for note in open_small(root).notes)


def test_transparency_is_noted(tmp_path: Path) -> None:
    clear = encoded(Image.new("RGBA", (SIZE, SIZE), (200, 10, 10, 0)))
    files = class_files({"a": 70, "b": 70})
    opaque = open_small(write(tmp_path / "opaque", files))
    clear_too = open_small(write(tmp_path / "clear", {**files, "a/000.png": clear}))
    for data, noted in ((opaque, False), (clear_too, True)):
        assert any("transparent images are drawn on white" in n for n in data.notes) == noted


def exif_with_damage(random_numbers: random.Random) -> bytes:
    """An EXIF block with an orientation of 6 among entries of wrong types, sizes and places."""
    entries = [(0x0112, 3, 1, struct.pack("<HH", 6, 0))]
    others = [0x010F, 0x0110, 0x011A, 0x0128, 0x0131, 0x0132, 0x8769, 0x8825, 0xA005, 0x9286]
    for tag in random_numbers.sample(others, 4):
        kind = random_numbers.choice([0, 1, 2, 3, 4, 5, 7, 9, 10, 12, 13, 99])
        count = random_numbers.choice([0, 1, 2, 5, 1000, 2**31, 2**32 - 1])
        entries.append((tag, kind, count, random_numbers.randbytes(4)))
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    return head + body + bytes(4) + random_numbers.randbytes(40)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_a_damaged_exif_entry_costs_neither_the_image_nor_its_orientation(kind: str) -> None:
    noise = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC)
    turned = image.transpose(Image.Transpose.ROTATE_270)
    upright = np.asarray(turned.resize((32, 32), box=(0, 8, 48, 56)))
    random_numbers = random.Random(0)
    for _ in range(100):
        file = io.BytesIO()
        image.save(file, kind, exif=exif_with_damage(random_numbers), quality=95)
        seen = decode(file.getvalue(), 32).transpose(1, 2, 0)
        assert np.abs(seen.astype(int) - upright).mean() < 6

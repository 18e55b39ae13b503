"""Files that are no use: left out, counted, listed in the run directory; too many stop the run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, PngImagePlugin

from headsearch.data.image.loading import Loading, load
from headsearch.data.image.readers import open_path
from headsearch.data.image.skipped import LISTED_IN, LeftOut, TooManyBadError
from headsearch.data.image.store import ImagesOnDemand
from helpers.command_line import in_process
from helpers.image_files import SIZE, class_files, encoded, numbers, open_small, png, tar, write

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
COLOUR = Image.fromarray(NOISE)
GREY = Image.fromarray(NOISE[:, :, 0])
TEXTS = PngImagePlugin.PngInfo()
TEXTS.add_text("Comment", "a" * 2**22, zip=True)
FRAMES = {"save_all": True, "append_images": [COLOUR.rotate(90)]}


def content(data: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(data)


def sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, 2**31)


def flat(side: int) -> bytes:
    return encoded(Image.new("1", (side, side)))


# what makes it, and why it is left out: the words, or None where it is used
FILES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "zero bytes": (content(b""), "empty file"),
    "text": (content(b"no image"), "no image of a kind that is read"),
    "HTML": (content(b"<!DOCTYPE html><html>not found</html>"), "no image of a kind"),
    "a page of PostScript": (content(encoded(COLOUR, "EPS")), "no image of a kind"),
    "cut short": (content(encoded(COLOUR)[:5000]), "truncated"),
    "cut short in its header": (content(encoded(COLOUR)[:20]), "Truncated"),
    "a JPEG cut short": (content(encoded(COLOUR, "JPEG")[:1500]), "truncated"),
    "scrambled": (content(encoded(COLOUR)[:60] + bytes(9000)), "truncated"),
    "a decompression bomb": (content(flat(200)), "40000 pixels) exceeds limit"),
    "half a decompression bomb": (content(flat(90)), "90×90 pixels, over the limit of 5000"),
    "a bomb among its texts": (content(encoded(COLOUR, pnginfo=TEXTS)), "Decompressed data too l"),
    "a huge file": (sparse, "2147483648 bytes, over the limit"),
    "a link to nowhere": (lambda file: file.symlink_to("nowhere.png"), "No such file"),
    "a link to a device": (lambda file: file.symlink_to("/dev/zero"), "not a regular file"),
    "a pipe that nobody writes into": (lambda file: os.mkfifo(file), "not a regular file"),
    "a link to another image": (lambda file: file.symlink_to("cat/000.png"), None),
    "CMYK": (content(encoded(COLOUR.convert("CMYK"), "JPEG")), None),
    "a palette": (content(encoded(COLOUR.convert("P"))), None),
    "a palette with transparency": (content(encoded(COLOUR.convert("P"), transparency=3)), None),
    "16 bits": (content(encoded(Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257))), None),
    "floating point": (content(encoded(GREY.convert("F"), "TIFF")), None),
    "black and white": (content(encoded(GREY.convert("1"))), None),
    "an animated GIF": (content(encoded(GREY, "GIF", **FRAMES)), None),
    "an animated PNG": (content(encoded(COLOUR, "PNG", **FRAMES)), None),
    "a JPEG of several pictures": (content(encoded(COLOUR, "MPO", **FRAMES)), None),
    "another kind than it is called": (content(encoded(COLOUR, "JPEG")), None),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("held", ["in memory", "on demand"])
def test_a_file_among_good_ones(
    case: str, held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reason = FILES[case]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", not_to_be_called)
    root = write(tmp_path / "set", class_files({"cat": 30}))
    make(root / "odd.png")
    left_out = LeftOut()
    limit = 1000 if held == "on demand" else 2**30
    source = open_path(root, "set")
    images, _ = load(source, torch.arange(31), SIZE, Loading(limit, left_out=left_out))
    assert isinstance(images, ImagesOnDemand) == (held == "on demand")
    found = numbers(images)
    assert set(range(30)) <= set(found), "the good ones are all there"
    if reason is None:
        assert left_out.lines == []
        assert len(images) == 31
    else:
        (line,) = left_out.lines
        assert line.startswith("set: odd.png: ")
        assert reason in line
        assert set(found) == set(range(30)), "and no other"


def not_to_be_called(*_: object, **__: object) -> None:
    raise AssertionError("Pillow would have run Ghostscript on the file")


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_files_that_vanish_between_listing_and_decoding(kind: str, tmp_path: Path) -> None:
    files = class_files({"cat": 40})
    if kind == "folder":
        path = write(tmp_path / "set", files)
        gone = [path / name for name in list(files)[:2]]
    else:
        path = tar(tmp_path / "set.tar", files)
        gone = [path]
    source, left_out = open_path(path, "set"), LeftOut()
    for file in gone:
        file.unlink()
    if kind == "archive":
        load(source, torch.arange(40), SIZE, Loading(left_out=left_out))
        with pytest.raises(TooManyBadError, match=r"set: 40 of 40 images cannot be read \(cat/000"):
            left_out.check()
        return
    images, bad = load(source, torch.arange(40), SIZE, Loading(left_out=left_out))
    left_out.check()
    assert bad == ["cat/000.png", "cat/001.png"]
    assert numbers(images) == list(range(2, 40))
    assert left_out.lines == [f"set: {name}: No such file or directory" for name in bad]


def test_files_that_vanish_while_a_run_goes_on_are_listed_as_they_do(tmp_path: Path) -> None:
    root, run = write(tmp_path / "set", class_files({"cat": 40})), tmp_path / "run"
    run.mkdir()
    left_out = LeftOut()
    source = open_path(root, "set")
    images, _ = load(source, torch.arange(40), SIZE, Loading(1000, left_out=left_out))
    left_out.list_in(run)
    assert not (run / LISTED_IN).exists()
    for number in (0, 39):
        (root / "cat" / f"{number:03d}.png").unlink()
    found = numbers(images)
    assert (found[0], found[39]) == (1, 1), "the next good one stands in"
    listed = (run / LISTED_IN).read_text().splitlines()
    assert sorted(listed) == [
        f"set: cat/{number:03d}.png: No such file or directory" for number in (0, 39)
    ]
    (root / "cat" / "007.png").unlink()
    with pytest.raises(TooManyBadError, match=r"3 of 40 .* than --max-bad-images 0\.05.*left_out"):
        images.batch(torch.tensor([7]))
    assert len((run / LISTED_IN).read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("bad", "most", "stops"), [(0, 0, False), (1, 0, True), (5, 0.05, False), (6, 0.05, True),
                               (60, 0.6, False), (99, 1, False), (100, 1, True)],
)  # fmt: skip
def test_more_than_the_share_that_is_set_stop_the_run(
    bad: int, most: float, stops: bool, tmp_path: Path
) -> None:
    root = write(tmp_path / "set", class_files({"cat": 100}))
    for number in range(bad):
        (root / "cat" / f"{number:03d}.png").write_bytes(b"")
    left_out = LeftOut(most)
    images, _ = load(open_path(root, "set"), torch.arange(100), SIZE, Loading(left_out=left_out))
    assert len(images) == 100 - bad
    assert len(left_out.lines) == bad
    if stops:
        with pytest.raises(TooManyBadError, match=f"{bad} of 100 images"):
            left_out.check()
    else:
        left_out.check()


def test_what_is_not_called_like_an_image_is_listed_too(tmp_path: Path) -> None:
    files = {**class_files({"cat": 50, "dog": 50}), "cat/table.csv": b"x", "read\x1bme": b"y"}
    data = open_small(write(tmp_path / "set", files))
    assert data.left_out.lines == [
        f"{tmp_path}/set: cat/table.csv: not called like an image",
        rf"{tmp_path}/set: read\x1bme: not called like an image",
    ]
    assert any("2 files that are not images left out" in note for note in data.notes)


def test_a_run_lists_them_and_with_too_many_stops_until_they_are_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "set", class_files({"cat": 60, "dog": 60}))
    bad = [root / "cat" / f"{number:03d}.png" for number in range(8)]
    for file in bad:
        file.write_bytes(b"")
    run = tmp_path / "run"
    code, _, err = in_process(
        capsys, monkeypatch,
        "run", "--data", str(root), "--out", str(run), "--base", "test_vit", "--image-size", "16",
        "--patch-size", "4", "--epochs", "1", "--batch-size", "32", "--rungs", "1",
        "--eval-images", "32", "--space", "controls.yaml", "--device", "cpu", "--threads", "1",
        "--bank-images", "64",
    )  # fmt: skip
    assert code == 2
    assert err.count("\n") == 1
    assert f"headsearch resume {run}; {run}/left_out.txt lists them all" in err
    listed = (run / LISTED_IN).read_text().splitlines()
    assert sorted(listed) == [f"{root}: cat/{file.name}: empty file" for file in bad]
    for number, file in enumerate(bad[1:], 1):
        file.write_bytes(png(number))
    code, out, err = in_process(capsys, monkeypatch, "resume", str(run))
    assert code == 0, err
    assert "1 file that cannot be read left out (cat/000.png); left_out.txt" in out
    assert (run / LISTED_IN).read_text() == f"{root}: cat/000.png: empty file\n"

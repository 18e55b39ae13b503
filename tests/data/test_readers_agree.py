"""A folder, a tar of it and `torch/image_folder` give the same images and classes of odd names."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from headsearch.data.image.byte_ranges import HEAD
from headsearch.data.image.decode import BadImage
from headsearch.data.image.loading import load
from headsearch.data.image.readers import FileSource, open_path
from helpers.image_files import SIZE, class_files, encoded, numbers, open_small, png, tar, write

ODD = {
    **class_files({"cat": 2, "dog": 2}),
    ".cache/1.png": png(50),
    "cat/.thumbs/1.png": png(51),
    "cat/._000.png": png(52),
    "cat/.hidden.png": png(53),
    "__MACOSX/cat/000.png": png(54),
    "__MACOSX/cat/._000.png": b"x",
    "cat/UPPER.PNG": png(10),
    "cat/two.dots.Png": png(11),
    "dog/deep/er/3.png": png(12),
    "dog/with space é.png": png(13),
    "empty/readme.txt": b"no image",
    ".DS_Store": b"x",
}
CLASSES = {10: "cat", 11: "cat", 12: "dog", 13: "dog", 0: "cat", 1: "cat", 2: "dog", 3: "dog"}


def by_number(source: FileSource) -> dict[int, str]:
    images, bad = load(source, torch.arange(len(source)), SIZE)
    assert bad == []
    assert images.labels is not None
    labels = [images.classes[label] for label in images.labels.tolist()]
    return dict(zip(numbers(images), labels, strict=True))


def both(tmp_path: Path, files: dict[str, bytes]) -> list[FileSource]:
    folder = write(tmp_path / "set", files)
    return [open_path(folder, "set"), open_path(tar(tmp_path / "set.tar", files), "set")]


def test_readers_of_one_set_agree(tmp_path: Path) -> None:
    folder, archive = both(tmp_path, ODD)
    (tmp_path / "set" / "really-empty").mkdir()
    assert by_number(folder) == by_number(archive) == CLASSES
    assert list(folder.files) == list(archive.files)
    assert list(folder.others) == list(archive.others) == ["empty/readme.txt"]
    assert folder.notes == archive.notes
    whole = write(tmp_path / "data" / "train", {**ODD, **class_files({"cat": 40, "dog": 40})})
    data = open_small("torch/image_folder", data_dir=whole.parent, image_size=SIZE)
    assert data.queries.classes == ("cat", "dog")


def test_a_tar_with_members_twice_or_under_two_names(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        for name, number in (("a/1.png", 1), ("b/2.png", 2), ("a/1.png", 3), ("./b/2.png", 4)):
            info = tarfile.TarInfo(name)
            info.size = len(png(number))
            archive.addfile(info, io.BytesIO(png(number)))
        link = tarfile.TarInfo("b/same.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a/1.png"
        archive.addfile(link)
    source = open_path(path, "set.tar")
    assert by_number(source) == {3: "b", 4: "b"}, "3 is in a and, linked, in b"
    assert list(source.files) == ["a/1.png", "b/2.png", "b/same.png"]
    assert source.notes == ("set.tar holds 2 members more than once; the last is used",)


def pairs(label: str) -> dict[str, bytes]:
    files = {}
    for number in range(12):
        files[f"{number:04d}.png"] = png(number)
        if label == ".cls":
            files[f"{number:04d}.cls"] = f"{number}\n".encode()
        else:
            files[f"{number:04d}.json"] = json.dumps({"label": number, "caption": "x"}).encode()
    return files


@pytest.mark.parametrize("label", [".cls", ".json"])
def test_labels_beside_the_images_are_read(label: str, tmp_path: Path) -> None:
    for source in both(tmp_path, pairs(label)):
        assert source.classes == tuple(map(str, range(12))), "in the order of numbers"
        assert by_number(source) == {number: str(number) for number in range(12)}
        assert source.notes == (f"set: labels are read from files *{label} beside the images",)
        assert list(source.others) == []


@pytest.mark.parametrize(
    "damage",
    [{"0003.cls": b""}, {"0003.cls": b"\xff\xfe"}, {"more.png": png(99)},
     {"0003.cls": b"9" * 2**21}],
)  # fmt: skip
def test_labels_that_some_images_lack_are_not_used_and_said_so(
    damage: dict[str, bytes], tmp_path: Path
) -> None:
    for source in both(tmp_path, {**pairs(".cls"), **damage}):
        assert source.labels is None
        assert "labels are not read from its 12 .cls files, because" in source.notes[0]
        assert (list(source.others), dict(source.beside)) == ([], {".cls": 12})


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"label": null}', b"[" * 100_000, b"true"])
def test_json_without_a_label(content: bytes, tmp_path: Path) -> None:
    for source in both(tmp_path, {**pairs(".json"), "0003.json": content}):
        assert source.labels is None


def test_class_folders_win_over_label_files(tmp_path: Path) -> None:
    files = {**class_files({"a": 2, "b": 2}), "a/000.cls": b"7"}
    for source in both(tmp_path, files):
        assert source.classes == ("a", "b")


def test_a_split_among_the_classes_is_no_class(tmp_path: Path) -> None:
    files = class_files({"cat": 5, "dog": 5, "test": 4})
    for source in both(tmp_path, files):
        assert source.classes == ("cat", "dog")
        assert len(source) == 10
        assert (
            "test beside the classes is named like a split and left out with its 4 images"
            in (source.notes[0])
        )


def test_train_may_be_a_class(tmp_path: Path) -> None:
    files = class_files({"car": 5, "train": 5})
    for source in both(tmp_path, files):
        assert source.classes == ("car", "train")
    many = write(tmp_path / "vehicles", class_files({"car": 50, "train": 50}))
    assert open_small(many).queries.classes == ("car", "train")


def test_the_size_of_an_image_is_read_from_the_start_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Image.effect_noise((600, 400), 200).convert("RGB")
    files = {"a.jpg": encoded(noise, "JPEG", quality=99), "b.png": encoded(noise)}
    assert min(map(len, files.values())) > 2 * HEAD
    write(tmp_path, {"list.txt": b"set/a.jpg\nset/b.png\n"})
    sources = [*both(tmp_path, files), open_path(tmp_path / "list.txt", "list")]
    for source in sources:
        with monkeypatch.context() as patched:
            patched.setattr(type(source), "read", None)  # reading the whole would fail
            assert [source.shorter_side(index) for index in (0, 1)] == [400, 400]


def test_the_size_is_found_behind_long_metadata_and_not_in_other_files(tmp_path: Path) -> None:
    profile = bytes(3 * HEAD)
    files = {
        "a.jpg": encoded(Image.new("RGB", (30, 20)), "JPEG", icc_profile=profile),
        "b.png": b"no image",
        "c.png": b"",
    }
    for source in both(tmp_path, files):
        assert source.shorter_side(0) == 20
        for index in (1, 2):
            with pytest.raises(BadImage):
                source.shorter_side(index)

"""Several tars, tars of tars and web shards: read by an index, in an order over all of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch

from headsearch.data.image import tar_index
from headsearch.data.image.brace_lists import expand
from headsearch.data.image.readers import open_named
from headsearch.data.image.store import ImagesOnDemand
from headsearch.errors import UserError
from helpers.image_files import class_files, numbers, open_small, png, tar, write


def web_shards(root: Path, count: int = 5, each: int = 40, name: str = "set-{:04d}.tar") -> Path:
    """WebDataset shards, sorted by class as ImageNet's often are: one class a shard."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        files = {}
        for number in range(shard * each, (shard + 1) * each):
            files |= {f"{number:06d}.png": png(number), f"{number:06d}.cls": f"{shard}".encode(),
                      f"{number:06d}.txt": b"a caption"}  # fmt: skip
        tar(root / name.format(shard), files)
    return root


@pytest.mark.parametrize(
    "spec",
    ["{}", "{}/set-{{0000..0004}}.tar", "{}/set-*.tar", "wds/{}",
     "{}/set-000{{0,1}}.tar::{}/set-000{{2..4}}.tar", "wds/{}#set-{{0000..0004}}.tar"],
)  # fmt: skip
def test_shards_are_one_set_in_an_order_over_all_of_them(spec: str, tmp_path: Path) -> None:
    root = web_shards(tmp_path / "shards")
    data = open_small(spec.format(root, root), images=50)
    assert data.queries.classes == tuple("01234")
    assert len(set((torch.tensor(numbers(data.train)) // 40).tolist())) == 5, "of all classes"
    for images in (data.queries, data.bank):
        assert images.labels.tolist() == [n // 40 for n in numbers(images)]
    other = open_small(spec.format(root, root), images=50, seed=1)
    assert numbers(other.train) != numbers(data.train)


def test_shards_without_labels_are_no_classes(tmp_path: Path) -> None:
    for shard in range(3):
        files = {f"{shard:05d}{n:04d}.png": png(shard * 40 + n) for n in range(40)}
        files |= {f"{shard:05d}{n:04d}.json": b'{"caption": "x"}' for n in range(40)}
        tar(tmp_path / f"{shard:05d}.tar", files)
    write(tmp_path, {"00000.parquet": b"x", "00000_stats.json": b"{}"})
    data = open_small(tmp_path)
    assert data.bank is None
    assert sorted(numbers(data.train) + numbers(data.queries)) == list(range(120))
    assert any("its archives (00000, 00001, 00002, …) are shards" in note for note in data.notes)
    assert data.left_out.lines == [
        f"{tmp_path}: 120 files *.json beside the images: not called like an image"
    ]


def test_shards_are_never_held_in_memory(tmp_path: Path) -> None:
    root = web_shards(tmp_path / "shards")
    data = open_small(f"wds/{root}", memory_limit=60 * 3 * 32**2)
    assert isinstance(data.train, ImagesOnDemand)
    assert len(set(numbers(data.train))) == len(data.train)


def test_imagenet_as_a_tar_of_tars(tmp_path: Path) -> None:
    path = tmp_path / "ILSVRC2012_img_train.tar"
    with tarfile.open(path, "w") as outer:
        for c, wnid in enumerate(("n01440764", "n01443537", "n01484850")):
            files = {f"{wnid}_{n}.png": png(100 * c + n) for n in range(40)}
            data = tar(tmp_path / "inner.tar", files).read_bytes()
            info = tarfile.TarInfo(f"{wnid}.tar")
            info.size = len(data)
            outer.addfile(info, io.BytesIO(data))
    (tmp_path / "inner.tar").unlink()
    data = open_small(path)
    assert data.queries.classes == ("n01440764", "n01443537", "n01484850")
    assert data.queries.labels.tolist() == [n // 100 for n in numbers(data.queries)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name], "nothing is unpacked"


def test_a_tar_a_class_and_tars_with_class_folders(tmp_path: Path) -> None:
    for name, first in (("cat", 0), ("dog", 100)):
        tar_path = tmp_path / "flat" / f"{name}.tar"
        tar_path.parent.mkdir(exist_ok=True)
        tar(tar_path, {f"{n}.png": png(first + n) for n in range(50)})
    assert open_small(tmp_path / "flat").queries.classes == ("cat", "dog")
    (tmp_path / "parts").mkdir()
    for part in range(2):
        tar(tmp_path / "parts" / f"p{part}.tar", class_files({"cat": 30, "dog": 30}, 100 * part))
    data = open_small(f"{tmp_path}/parts/p0.tar::{tmp_path}/parts/p1.tar")
    assert data.queries.classes == ("cat", "dog")
    assert len(data.train) + len(data.queries) == 120


def test_archives_of_other_splits_are_left_out_and_said_so(tmp_path: Path) -> None:
    web_shards(tmp_path, 3, 40, "imagenet-train-{:04d}.tar")
    for shard in range(2):
        files = {f"{n}.png": png(1000 + n) for n in range(shard * 40, shard * 40 + 40)}
        tar(tmp_path / f"imagenet-val-{shard:04d}.tar", files)
    data = open_small(tmp_path)
    assert max(numbers(data.train) + numbers(data.queries)) < 1000
    assert any("2 archives of other splits left out" in note for note in data.notes)
    both = open_small(f"wds/{tmp_path}", f"wds/{tmp_path}")
    assert max(numbers(both.train)) < 1000 <= min(numbers(both.queries))


def test_shards_of_captions_alone_are_said_once(tmp_path: Path) -> None:
    for shard in range(2):
        tar(tmp_path / f"{shard:05d}.tar", {f"{n:09d}.txt": b"a caption" for n in range(500)})
    with pytest.raises(UserError, match=r"holds 1000 files, none an image") as caught:
        open_small(tmp_path)
    assert "\n" not in str(caught.value)
    tar(tmp_path / "00002.tar", {f"{n:09d}.png": png(n) for n in range(100)})
    notes = open_named(str(tmp_path), "train").notes
    assert f"{tmp_path}: 2 of 3 archives hold no image" in notes


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{}/set-{{0000..0009}}.tar", r"set-0005\.tar does not exist"),
        ("{}/other-*.tar", r"other-\*\.tar does not exist"),
        ("{}/set-{{0..9999999}}.tar", "more than 1000000 archives"),
        ("wds/{}#set-{{0004..0005}}.tar", r"no shard 'set-0005\.tar'"),
        ("wds/{}#train", "name the shards, as in wds/FOLDER"),
    ],
)
def test_shards_that_are_not_there(spec: str, words: str, tmp_path: Path) -> None:
    root = web_shards(tmp_path / "shards")
    with pytest.raises(UserError, match=words) as caught:
        open_small(spec.format(root))
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_cut_short_is_named(tmp_path: Path) -> None:
    root = web_shards(tmp_path / "shards")
    whole = (root / "set-0003.tar").read_bytes()
    (root / "set-0003.tar").write_bytes(whole[:3000])
    with pytest.raises(UserError, match=r"set-0003\.tar cannot be read as a tar"):
        open_small(root)


def test_brace_lists() -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{a,b}-{0..1}.tar::c.tar") == [
        "a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar", "c.tar",
    ]  # fmt: skip


def test_the_index_of_a_large_tar_is_kept_while_the_tar_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tar_index, "KEPT_FROM", 100)
    path = tar(tmp_path / "set.tar", class_files({"cat": 60, "dé": 60}))
    first = open_named(str(path), "train")
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    with monkeypatch.context() as patched:
        patched.setattr(tar_index, "_read", None)
        again = open_named(str(path), "train")
    assert again.files == first.files
    assert again.read(70) == first.read(70) == png(70)
    kept.write_bytes(b"damaged")
    assert open_named(str(path), "train").files == first.files
    tar(path, class_files({"owl": 130}))
    assert len(open_named(str(path), "train")) == 130


def test_an_index_that_cannot_be_kept_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(write(tmp_path, {"file": b""}) / "file"))
    monkeypatch.setattr(tar_index, "KEPT_FROM", 100)
    assert len(open_named(str(tar(tmp_path / "set.tar", class_files({"a": 120}))), "train")) == 120

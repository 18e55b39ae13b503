"""`--data` as a URL that fsspec knows: folders, shards and lists, in the memory of this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from headsearch.errors import UserError
from helpers.image_files import class_files, numbers, open_small, png, tar


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


def put(memory: fsspec.AbstractFileSystem, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        memory.pipe_file(f"/{name}", data)


def test_a_folder_of_classes(memory: fsspec.AbstractFileSystem) -> None:
    files = class_files({"cat": 50, "dog": 50})
    put(memory, {f"pets/{name}": data for name, data in files.items()})
    put(memory, {"pets/.cache/1.png": png(5), "pets/cat/000.txt": b"a caption"})
    data = open_small("memory://pets/")
    assert data.queries.classes == ("cat", "dog")
    assert sorted(numbers(data.train) + numbers(data.queries)) == list(range(100))
    assert data.left_out.lines == [
        "memory://pets/: 1 file *.txt beside the images: not called like an image"
    ]


@pytest.mark.parametrize("spec", ["memory://web", "memory://web/{00000..00002}.tar"])
def test_shards_are_read_in_parts(
    spec: str, memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):
        files = {}
        for n in range(shard * 40, shard * 40 + 40):
            files |= {f"{n:06d}.png": png(n), f"{n:06d}.cls": str(shard).encode()}
        put(memory, {f"web/{shard:05d}.tar": tar(tmp_path / "x.tar", files).read_bytes()})
    asked: list[int] = []
    whole = type(memory).cat_file

    def counted(self: object, path: str, start: int, end: int, **rest: object) -> bytes:
        asked.append(end - start)
        return whole(self, path, start=start, end=end, **rest)

    monkeypatch.setattr(type(memory), "cat_file", counted)
    data = open_small(spec)
    assert data.queries.classes == ("0", "1", "2")
    for images in (data.queries, data.bank):
        assert images.labels.tolist() == [n // 40 for n in numbers(images)]
    assert max(asked) < 1000, "bytes of an image or a label, never a shard"


def test_a_list_names_images_beside_it_and_elsewhere(memory: fsspec.AbstractFileSystem) -> None:
    put(memory, {f"set/i/{n}.png": png(n) for n in range(100)})
    rows = [f"{'memory://set/' if n % 2 else ''}i/{n}.png,{n % 2}" for n in range(100)]
    put(memory, {"set/list.csv": "\n".join(rows).encode()})
    data = open_small("memory://set/list.csv")
    assert data.queries.labels.tolist() == [n % 2 for n in numbers(data.queries)]
    put(memory, {"labels.csv": "\n".join(f"{n}.png,{n % 2}" for n in range(100)).encode()})
    assert open_small("memory://set/i", labels="memory://labels.csv").bank is not None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("memory://nothing", "memory://nothing"),
        ("memory://nothing/set.tar", "cannot be reached"),
        ("memory://nothing/list.csv", "cannot be read"),
        ("nosuch://bucket/x", "Protocol not known: nosuch"),
        ("http://127.0.0.1:9/set.tar", "cannot be reached"),
        ("http://127.0.0.1:9/list.txt", "cannot be read"),
    ],
)
@pytest.mark.usefixtures("memory")
def test_what_cannot_be_reached_is_one_line(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        open_small(spec)
    assert "\n" not in str(caught.value)
    assert spec in str(caught.value)


def test_a_url_that_needs_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(UserError, match=r"s3://bucket/x: Install s3fs to access S3"):
        open_small("s3://bucket/x")


def test_files_that_vanish_are_left_out(memory: fsspec.AbstractFileSystem) -> None:
    put(memory, {f"set/{n}.png": png(n) for n in range(100)})
    rows = "\n".join(f"{n}.png" for n in range(102))
    put(memory, {"set/list.txt": rows.encode()})
    data = open_small("memory://set/list.txt")
    assert len(data.left_out.lines) == 2
    assert len(data.train) + len(data.queries) == 100

"""`--data` as a list of paths: a text file or a CSV, with or without labels, with missing files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headsearch.data.image.path_table import PathTable
from headsearch.errors import UserError
from helpers.image_files import class_files, numbers, open_small, png, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "images", {f"a b/{n:03d}.png": png(n) for n in range(100)})


def listed(root: Path, name: str, lines: list[str]) -> Path:
    path = root.parent / name
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["list.txt", "list.lst", "list.csv"])
def test_paths_alone_are_unlabelled(name: str, root: Path) -> None:
    paths = [f"images/a b/{n:03d}.png" for n in range(100)]
    for lines in (paths, [f"{root.parent}/{path}" for path in paths]):
        data = open_small(listed(root, name, lines))
        assert sorted(numbers(data.train) + numbers(data.queries)) == list(range(100))
        assert data.bank is None
        assert any("--labels folders takes their folders as classes" in n for n in data.notes)


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [("l.txt", "", "{} {}"), ("l.txt", "", "{}\t{}"), ("l.csv", "", "{},{}"),
     ("l.csv", "label,image", "{1},{0}"), ("l.csv", "file_name;label", "{};{}"),
     ("l.tsv", "path\tclass\twidth", "{}\t{}\t32"), ("l.csv", "\ufeffpath,label", '"{}",{}')],
)  # fmt: skip
def test_paths_with_labels(name: str, header: str, row: str, root: Path) -> None:
    lines = [row.format(f"images/a b/{n:03d}.png", n % 11) for n in range(100)]
    data = open_small(listed(root, name, [header, *lines] if header else lines))
    assert data.queries.classes == tuple(map(str, range(11))), "in the order of numbers"
    assert data.queries.labels.tolist() == [n % 11 for n in numbers(data.queries)]


def test_missing_files_are_left_out_and_listed(root: Path) -> None:
    lines = [f"images/a b/{n:03d}.png" for n in range(103)]
    data = open_small(listed(root, "l.txt", lines))
    path = root.parent / "l.txt"
    missing = [f"images/a b/{n:03d}.png" for n in (100, 101, 102)]
    assert sorted(data.left_out.lines) == [
        f"{path}: {name}: No such file or directory" for name in missing
    ]
    with pytest.raises(UserError, match="more than --max-bad-images"):
        open_small(path, max_bad_images=0.01)
    gone = listed(root, "gone.txt", [f"no/{n}.png" for n in range(90)])
    with pytest.raises(UserError, match="none of its 90 images can be read") as caught:
        open_small(gone)
    assert "\n" not in str(caught.value)


def test_folders_of_a_list_are_classes_where_the_flag_says_so(tmp_path: Path) -> None:
    write(tmp_path, class_files({"cat": 50, "dog": 50}))
    path = tmp_path / "l.txt"
    path.write_text("\n".join(class_files({"cat": 50, "dog": 50})))
    assert open_small(path).bank is None
    assert open_small(path, labels="folders").queries.classes == ("cat", "dog")


def test_rows_without_a_label_and_rows_twice(root: Path) -> None:
    lines = [f"images/a b/{n:03d}.png,{'' if n == 7 else n % 2}" for n in range(100)]
    data = open_small(listed(root, "l.csv", lines))
    assert data.bank is None
    assert any("1 of its 100 rows have no label" in note for note in data.notes)
    lines = [f"images/a b/{n % 90:03d}.png,{n % 2}" for n in range(100)]
    data = open_small(listed(root, "l.csv", lines))
    assert len(data.train) + len(data.queries) == 90
    assert any("lists 10 of its paths more than once" in note for note in data.notes)


def test_lists_serve_both_sides(root: Path) -> None:
    rows = [f"images/a b/{n:03d}.png {'cat' if n % 2 else 'dog'}" for n in range(100)]
    data = open_small(listed(root, "train.txt", rows[:60]), listed(root, "val.txt", rows[60:]))
    assert max(numbers(data.train)) < 60 <= min(numbers(data.queries))
    assert data.queries.classes == ("cat", "dog")


def test_a_labelled_list_beside_a_file_of_labels_for_the_other_side(root: Path) -> None:
    rows = [f"images/a b/{n:03d}.png {'cat' if n % 2 else 'dog'}" for n in range(60)]
    val = write(root.parent / "val", {f"v{n}.png": png(n) for n in range(100, 160)})
    lines = [f"v{n}.png {'cat' if n % 2 else 'dog'}" for n in range(100, 160)]
    labels = listed(root, "val_labels.txt", lines)
    data = open_small(listed(root, "train.txt", rows), val, labels=str(labels))
    assert data.bank.classes == data.queries.classes == ("cat", "dog")
    for images in (data.bank, data.queries):
        assert images.labels.tolist() == [1 - n % 2 for n in numbers(images)]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00\x01"])
def test_a_list_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is empty|not text in UTF-8") as caught:
        open_small(path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_file_of_labels(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(UserError, match="not a regular file"):
        PathTable.read(str(tmp_path / "labels.csv"))

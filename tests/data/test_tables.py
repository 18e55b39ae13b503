"""Hugging Face data sets saved to disk, and parquet: bytes columns, whole-number labels, splits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headsearch.data.image.tables import find_table, splits_of
from headsearch.errors import UserError
from helpers.image_files import numbers, open_small, png, tar, write

SHAPES = ("images", "bytes", "records")


def rows(first: int, count: int, shape: str) -> dict[str, list[Any]]:
    pictures: list[Any] = [png(first + n) for n in range(count)]
    if shape != "bytes":
        pictures = [{"bytes": each, "path": None} for each in pictures]
    return {"img": pictures, "label": [(first + n) % 12 for n in range(count)]}


def dataset(first: int, count: int, shape: str = "images") -> Any:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict(rows(first, count, shape))
    return table.cast_column("img", datasets.Image()) if shape == "images" else table


def check(data: Any) -> None:
    assert data.queries.classes == tuple(map(str, range(12))), "whole numbers are labels"
    for images in (data.queries, data.bank):
        assert images.labels.tolist() == [n % 12 for n in numbers(images)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_data_set_saved_to_disk(shape: str, tmp_path: Path) -> None:
    dataset(0, 120, shape).save_to_disk(tmp_path / "set")
    data = open_small(tmp_path / "set")
    check(data)
    assert sorted(numbers(data.train) + numbers(data.queries)) == list(range(120))
    assert open_small(tmp_path / "set", labels="none").bank is None
    with pytest.raises(UserError, match="is a table, whose labels are a column"):
        open_small(tmp_path / "set", labels="folders")


def test_splits_of_a_data_set_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict(train=dataset(0, 120), validation=dataset(1200, 72))
    both.save_to_disk(tmp_path / "set")
    data = open_small(tmp_path / "set")
    check(data)
    assert max(numbers(data.train)) < 1200 <= min(numbers(data.queries))
    assert f"{tmp_path}/set: trains on train, evaluates on validation" in data.notes
    one = open_small(f"{tmp_path}/set#validation", eval_images=32, bank_images=20)
    assert min(numbers(one.train)) >= 1200
    with pytest.raises(UserError, match=r"unknown split of .*'tset'"):
        open_small(f"{tmp_path}/set#tset")


@pytest.mark.parametrize("shape", SHAPES)
def test_parquet(shape: str, tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    for shard in range(2):
        place = tmp_path / "set" / "data" / f"train-{shard:05d}-of-00002.parquet"
        dataset(72 * shard, 72, shape).to_parquet(place)
    for spec in (tmp_path / "set", tmp_path / "set" / "data"):
        data = open_small(spec, data_dir=tmp_path / "cache")
        check(data)
        assert sorted(numbers(data.train) + numbers(data.queries)) == list(range(144))
    one = open_small(place, data_dir=tmp_path / "cache", eval_images=32, bank_images=20)
    assert min(numbers(one.train)) >= 72
    dataset(1200, 72, shape).to_parquet(tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    both = open_small(tmp_path / "set", data_dir=tmp_path / "cache")
    assert max(numbers(both.train)) < 1200 <= min(numbers(both.queries))


def test_text_labels_class_names_and_rows_without_an_image(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = rows(0, 120, "bytes")
    columns["img"][7] = None
    columns["label"] = ["cat" if n % 2 else "dog" for n in range(120)]
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "set")
    data = open_small(tmp_path / "set")
    assert data.queries.classes == ("cat", "dog")
    assert data.queries.labels.tolist() == [1 - n % 2 for n in numbers(data.queries)]
    assert data.left_out.lines == [f"{tmp_path}/set: {tmp_path}/set[7]: no image in this row"]
    columns["label"][3] = None
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "gaps")
    gaps = open_small(tmp_path / "gaps")
    assert gaps.bank is None
    assert any("some images have no label" in note for note in gaps.notes)


def test_columns_that_are_not_clear(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = rows(0, 40, "bytes")
    two = {"left": columns["img"], "right": columns["img"]}
    datasets.Dataset.from_dict(two).save_to_disk(tmp_path / "two")
    datasets.Dataset.from_dict({"caption": ["x"] * 40}).save_to_disk(tmp_path / "none")
    kinds = {"img": columns["img"], "fine_label": [0] * 40, "label": [1] * 40}
    datasets.Dataset.from_dict(kinds).save_to_disk(tmp_path / "kinds")
    for name, words in (
        ("two", "left and right may"), ("none", "none may"), ("kinds", "holds the labels is not"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            open_small(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(UserError, match="cannot be read as a table") as caught:
        open_small(tmp_path / "x.parquet", data_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_without_the_package_a_table_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    code = (
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'datasets' else f(name, *a)\n"
        f"from headsearch.data import open_data; open_data({str(tmp_path / 'x.parquet')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs the package 'datasets': pip install datasets" in done.stderr


def test_parquet_beside_images_or_archives_is_no_table(tmp_path: Path) -> None:
    write(tmp_path / "a", {"00000.parquet": b"x", "00000/000000000.png": png(0)})
    (tmp_path / "b").mkdir()
    tar(write(tmp_path / "b", {"00000.parquet": b"x"}) / "00000.tar", {"0.png": png(0)})
    assert splits_of(tmp_path / "a") == splits_of(tmp_path / "b") == {}
    assert find_table(str(tmp_path / "a"), "train") is None

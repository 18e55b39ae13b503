"""Held-out is checked: splits inside others, copies, and queries that no proxy can classify."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from headsearch.data.splits import halves
from headsearch.errors import UserError
from headsearch.runs.rank_by import resolved_rank_by
from helpers.image_files import class_files, encoded, numbers, open_small, png, tar, write


def all_numbers(data: object) -> set[int]:
    return {*numbers(data.train), *numbers(data.queries)}  # type: ignore[attr-defined]


def test_an_unlabelled_split_does_not_cost_the_labels(tmp_path: Path) -> None:
    root = write(tmp_path / "set" / "train", class_files({"a": 50, "b": 50})).parent
    write(root / "test", {f"{i}.png": png(1000 + i) for i in range(60)})
    data = open_small(root)
    assert data.queries.classes == ("a", "b")
    assert max(all_numbers(data)) < 1000
    assert any("test has no labels and train has, so queries are held out" in n for n in data.notes)
    write(root / "val", class_files({"a": 40, "b": 40}, first=2000))
    assert min(numbers(open_small(root).queries)) >= 2000, "a labelled split is used"


def test_a_test_folder_with_the_classes_of_its_neighbours_is_evaluated_on(tmp_path: Path) -> None:
    root = write(tmp_path / "set", class_files({"a": 50, "b": 50}))
    write(root / "test", class_files({"a": 40, "b": 40}, first=1000))
    data = open_small(root)
    assert data.queries.classes == data.bank.classes == ("a", "b")
    assert max(numbers(data.train)) < 1000 <= min(numbers(data.queries))


def test_evaluation_images_inside_the_training_images_are_left_out_there(tmp_path: Path) -> None:
    root = write(tmp_path / "set", class_files({"a": 50, "b": 50}))
    held = write(root / "held", class_files({"a": 40, "b": 40}, first=1000))
    data = open_small(root, held, images=0)
    assert max(numbers(data.train)) < 1000 <= min(numbers(data.queries))
    assert data.warnings == ()
    assert any("lies inside" in note for note in data.notes)
    other = open_small(held, root, images=0)
    assert max(numbers(other.queries)) < 1000 <= min(numbers(other.train))


def test_copies_of_training_images_among_the_queries_are_counted(tmp_path: Path) -> None:
    files = class_files({"a": 50, "b": 50})
    root = write(tmp_path / "set", files)
    whole = open_small(root, tar(tmp_path / "copy.tar", files))
    assert whole.warnings[0].startswith("40 of 40 queries are copies of training or bank images")
    assert "leave --eval-data out" in whole.warnings[0]
    assert f"warning: {whole.warnings[0]}" in whole.notes
    held = {**class_files({"a": 50, "b": 50}, first=1000), "a/000.png": png(3)}
    some = open_small(root, write(tmp_path / "held", held), eval_images=0)
    assert some.warnings[0].startswith("1 of 100 queries is a copy")
    assert open_small(root).warnings == ()


def test_on_demand_images_are_compared_too(tmp_path: Path) -> None:
    files = class_files({"a": 50, "b": 50})
    root, copy = write(tmp_path / "set", files), write(tmp_path / "copy", files)
    data = open_small(root, copy, memory_limit=60 * 3 * 32**2)
    assert data.warnings[0].startswith("40 of 40 queries are copies")


def test_images_that_are_all_the_same_or_show_nothing_are_counted(tmp_path: Path) -> None:
    black = encoded(Image.new("RGB", (32, 32)))
    same = open_small(write(tmp_path / "same", {f"{i}.png": black for i in range(100)}))
    for words in (
        "40 of 40 queries are copies of training", "59 of 60 training images", "39 of 40 queries",
        "60 of 60 training images of", "show nothing",
    ):  # fmt: skip
        assert any(words in warning for warning in same.warnings), words


def test_queries_of_classes_that_the_bank_lacks_do_not_count(tmp_path: Path) -> None:
    # 40 classes of one image beside two of 60: what is held out of the former is nowhere else.
    files = class_files({"a": 60, "b": 60} | {f"rare{i:02d}": 1 for i in range(40)})
    data = open_small(write(tmp_path / "set", files), images=0, bank_images=1000)
    counted = torch.cat([data.choose, data.report])
    known = set(data.bank.labels.tolist())
    assert {data.queries.labels[i].item() for i in counted.tolist()} <= known
    assert 0 < len(counted) < len(data.queries)
    missing = len(data.queries) - len(counted)
    assert data.warnings[0].startswith(f"{missing} of {len(data.queries)} queries are of classes")


def test_data_whose_queries_no_proxy_can_classify_count_as_unlabelled(tmp_path: Path) -> None:
    files = class_files({f"c{i:03d}": 1 for i in range(100)})
    data = open_small(write(tmp_path / "set", files), images=0)
    assert data.bank is None
    assert data.queries.labels is None
    assert len(data.choose) == 0
    (warning,) = (each for each in data.warnings if "count as unlabelled" in each)
    assert warning.startswith(data.unused_labels)
    assert "40 of 40 queries are of classes that none of the 50 bank images is of" in warning
    assert not any("--bank-images" in each or "no labels" in each for each in data.notes)


def test_accuracies_of_a_few_of_the_queries_do_not_count(tmp_path: Path) -> None:
    files = class_files({"a": 8, "b": 8} | {f"c{i:03d}": 1 for i in range(100)})
    data = open_small(write(tmp_path / "set", files), images=0, bank_images=1000)
    assert data.bank is None
    assert "are of classes that none of" in data.unused_labels


def test_ranking_by_accuracy_is_refused_where_queries_cannot_be_classified() -> None:
    why = "40 of 40 queries are of classes that none of the 50 bank images is of"
    with pytest.raises(UserError, match="--rank-by accuracy needs queries that") as refused:
        resolved_rank_by("accuracy", labelled=False, data="pets", unused_labels=why)
    assert why in str(refused.value)
    assert "has none" not in str(refused.value)
    assert resolved_rank_by("auto", labelled=False, data="pets", unused_labels=why) == "discrepancy"


def test_a_bank_of_0_images_is_all_that_are_not_held_out(tmp_path: Path) -> None:
    data = open_small(write(tmp_path / "set", class_files({"a": 60, "b": 60})), bank_images=0)
    assert data.bank is not None
    assert len(data.bank) == 120 - len(data.queries)


def test_halves_of_some_queries_are_those_of_all_where_all_count() -> None:
    labels = torch.arange(60) % 3
    everyone = torch.arange(60)
    for one, other in zip(halves(labels, 0), halves(labels, 0, everyone), strict=True):
        assert torch.equal(one, other)
    some = torch.tensor([3, 7, 8, 20, 21, 40])
    choose, report = halves(labels, 0, some)
    assert sorted(choose.tolist() + report.tolist()) == some.tolist()

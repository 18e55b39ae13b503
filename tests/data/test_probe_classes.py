"""Where a set has many classes, bank and queries hold some of them, with several images of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from headsearch.data import Data, DataSettings, Source, open_data
from headsearch.data.order import balanced_order
from headsearch.data.probe_classes import classes_to_probe
from headsearch.errors import UserError
from headsearch.seeding import seeded_generator
from helpers.image_files import class_files, open_small, write


class ManyClasses(Source):
    """A made set of tiny images of one colour, with `each` images of every class."""

    def __init__(self, classes: int, each: int) -> None:
        self.name = f"{classes} classes"
        self.classes = tuple(f"class {number:05d}" for number in range(classes))
        self.labels = torch.arange(classes * each) % classes

    def __len__(self) -> int:
        assert self.labels is not None
        return len(self.labels)

    def pixels(self, index: int, size: int) -> NDArray[np.uint8]:
        colour = np.array([index % 256, index // 256 % 256, index // 65536], np.uint8)
        return np.broadcast_to(colour[:, None, None], (3, size, size))

    def shorter_side(self, index: int) -> int:
        return 16


def indices(images: object) -> set[int]:
    pixels = images.batch(torch.arange(len(images)))[:, :, 0, 0].long()  # type: ignore[attr-defined, arg-type]
    return set((pixels @ torch.tensor([1, 256, 65536])).tolist())


def opened(classes: int, each: int, **settings: int) -> Data:
    wanted = DataSettings(image_size=16, images=500, **settings)  # type: ignore[arg-type]
    return open_data(ManyClasses(classes, each), settings=wanted)


def bank_of(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """How many bank images and queries there are of each class."""
    assert data.bank is not None
    assert data.bank.labels is not None
    assert data.queries.labels is not None
    assert data.bank.classes == data.queries.classes
    count = len(data.bank.classes)
    return (torch.bincount(each.labels, minlength=count) for each in (data.bank, data.queries))  # type: ignore[return-value]


@pytest.mark.parametrize(("classes", "each"), [(1000, 20), (22_000, 13)])
@pytest.mark.parametrize(("bank", "expected"), [(512, 51), (1000, 100), (4000, 100)])
def test_every_query_can_be_classified(classes: int, each: int, bank: int, expected: int):
    data = opened(classes, each, bank_images=bank, eval_images=512)
    in_bank, of_queries = bank_of(data)
    assert len(in_bank) == expected
    assert in_bank.min() >= min(10, bank // expected)
    assert of_queries.min() >= 2
    assert not indices(data.queries) & (indices(data.train) | indices(data.bank))
    assert len({int(i) % classes for i in indices(data.train)}) > 350, "training is of all classes"
    assert any(f"{expected} of {classes} classes" in note for note in data.notes)
    assert not any("left out of accuracies" in warning for warning in data.warnings)
    assert len(data.choose) + len(data.report) == len(data.queries)


def test_classes_of_very_different_sizes_are_probed_equally():
    source = ManyClasses(100, 13)
    extra = torch.arange(3).repeat_interleave(20_000)
    assert source.labels is not None
    source.labels = torch.cat([source.labels, extra])
    wanted = DataSettings(image_size=16, images=500, bank_images=512, eval_images=512)
    in_bank, of_queries = bank_of(open_data(source, settings=wanted))
    assert len(in_bank) == 51
    assert in_bank.min() >= 10
    assert of_queries.min() >= 3


def test_one_class_alone_cannot_be_asked_for():
    with pytest.raises(UserError, match="probe-classes 1"):
        DataSettings(probe_classes=1)


def test_two_small_classes_are_enough():
    data = opened(1000, 20, probe_classes=2)
    in_bank, of_queries = bank_of(data)
    assert in_bank.tolist() == [10, 10]
    assert of_queries.tolist() == [10, 10]


def test_classes_of_one_image_each_cannot_be_probed():
    data = opened(200, 1)
    assert data.bank is None
    assert any("count as unlabelled" in warning for warning in data.warnings)


def test_other_seeds_draw_other_classes():
    names = [opened(1000, 20, seed=seed).queries.classes for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


def test_sets_with_few_classes_are_split_as_before():
    data = opened(10, 100, eval_images=128, bank_images=512)
    order = balanced_order(ManyClasses(10, 100).labels, 1000, seeded_generator(0, "split")).tolist()
    assert indices(data.queries) == set(order[:128])
    assert indices(data.bank) == set(order[128:640])
    assert indices(data.train) == set(order[128:628])


def test_all_classes_may_be_asked_for():
    data = opened(1000, 20, probe_classes=0)
    assert len(data.queries.classes) == 1000


def test_classes_with_too_few_images_are_drawn_last():
    sizes = torch.tensor([1, 1, 12, 30, 12, 3, 50, 2])
    chosen = classes_to_probe(sizes, None, 4, 1000, 1000, seed=0)
    assert chosen is not None
    assert chosen.tolist() == [2, 3, 4, 6]
    more = classes_to_probe(sizes, None, 6, 1000, 1000, seed=0)
    assert more is not None
    assert more.tolist() == [2, 3, 4, 5, 6, 7]


def test_evaluation_images_of_their_own_have_the_same_classes(tmp_path: Path):
    names = [f"c{number:02d}" for number in range(40)]
    train = write(tmp_path / "train", class_files(dict.fromkeys(names, 14)))
    held = write(tmp_path / "held", class_files(dict.fromkeys(names, 4), first=1000))
    data = open_small(train, held, bank_images=200, eval_images=0, probe_classes=100)
    in_bank, of_queries = bank_of(data)
    assert len(in_bank) == len(of_queries) == 20
    assert in_bank.min() >= 8
    assert of_queries.tolist() == [4] * 20
    assert data.bank is not None
    assert data.bank.classes[0] in names


def test_few_bank_images_of_a_class_are_warned_about(tmp_path: Path):
    root = write(tmp_path / "set", class_files({"cat": 60, "dog": 60}))
    data = open_small(root, bank_images=14)
    assert any("2 of 2 classes have fewer than 10 bank images" in w for w in data.warnings)
    assert not any("fewer than 10" in w for w in open_small(root, bank_images=50).warnings)

"""Heads of a user whose code fails: they are set aside, and the search goes on without them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from headsearch.errors import UserError
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.pretraining.solo import SoloRun
from headsearch.runs.run import read_run
from headsearch.study.search import Search
from helpers.tiny_search import begun

HEADS = '''
import os
import sys

import torch
from torch import nn


class Sound(nn.Conv2d):
    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 1)


class InPlace(Sound):
    def forward(self, maps):
        return super().forward(maps.relu_())


class Double(Sound):
    def forward(self, maps):
        return super().forward(maps).double()


class Detached(Sound):
    def forward(self, maps):
        return super().forward(maps).detach()


class Later(Sound):
    """Fails in its fifth forward pass."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.passes = 0

    def fail(self, maps):
        raise ValueError("five is too many")

    def forward(self, maps):
        self.passes += 1
        return self.fail(maps) if self.passes == 5 else super().forward(maps)


class LaterInPlace(Later):
    def fail(self, maps):
        return Sound.forward(self, maps.mul_(2))


class Leaving(Later):
    def fail(self, maps):
        sys.exit(3)
'''
FAILING = {
    "inplace": ("InPlace", "it changes its input in place"),
    "double": ("Double", "its output is float64, its input float32"),
    "detached": ("Detached", "its output takes no gradient: it is detached"),
    "later": ("Later", "ValueError: five is too many"),
    "laterinplace": ("LaterInPlace", "it changes its input in place"),
    "leaving": ("Leaving", "it ends the process (exit code 3)"),
}
SETTINGS = {
    "coupling": "observe", "objective": "byol", "cohort": 12, "rungs": 1, "epochs": 3,
    "eval_images": 32, "bank_images": 32,
}  # fmt: skip


def space(*names: str) -> str:
    classes = {"sound": "Sound", **{name: made for name, (made, _) in FAILING.items()}}
    families = "".join(f"  {name}: {{module: 'own.py:{classes[name]}'}}\n" for name in names)
    return f"families:\n{families}controls: {{identity: }}\n"


def searched(folder: Path, name: str, text: str) -> Path:
    (folder / "own.py").write_text(HEADS)
    search = Search(begun(folder, name, text, **SETTINGS))
    search.run()
    assert search.complete
    return search.run_directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("failing"), "run", space("sound", *FAILING))


def test_heads_whose_code_fails_are_set_aside_with_the_reason(run: Path) -> None:
    ranking = read_run(run).ranking.set_index("candidate")
    for name, (_, reason) in FAILING.items():
        assert ranking.loc[name, "state"] == "failed"
        assert ranking.loc[name, "reason"] == reason
    assert ranking.loc["sound", "state"] == ranking.loc["identity", "state"] == "complete"


def test_the_other_heads_train_as_without_them(run: Path, tmp_path: Path) -> None:
    alone = searched(tmp_path, "alone", space("sound"))
    with_others, without = (
        pd.read_csv(path / "rungs.csv").query("candidate in ('sound', 'identity')")
        for path in (run, alone)
    )
    pd.testing.assert_frame_equal(
        with_others.reset_index(drop=True), without.reset_index(drop=True)
    )


def test_pretraining_with_such_a_head_ends_in_one_line(run: Path) -> None:
    for name in ("detached", "double"):
        planned = prepare_pretraining({}, run=read_run(run), head=name)
        with pytest.raises(UserError, match=rf"the head {name} failed: its output") as error:
            SoloRun(planned.setup, planned.candidate)
        assert "\n" not in str(error.value)

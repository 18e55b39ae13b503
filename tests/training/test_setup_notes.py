"""The notes of a training's set-up that warn of what will come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from headsearch.config.presets import STEPS_TO_LEARN
from headsearch.config.settings import resolve
from headsearch.study.setup import prepare
from headsearch.training.objectives import OBJECTIVES
from headsearch.training.provenance import setup_notes
from helpers.tiny_search import settings


@pytest.mark.parametrize("objective", ["simclr", "mocov3", "mae"])
def test_too_few_steps_for_an_objective_are_said(tmp_path: Path, objective: str) -> None:
    prepared = prepare(resolve(settings(tmp_path, objective=objective)))
    found = [note for note in setup_notes(prepared.training) if "may be too few" in note]
    enough = STEPS_TO_LEARN.get(objective)
    assert len(found) == (enough is not None)
    if enough is not None:
        assert f"6 steps may be too few for {objective}" in found[0]
        assert f"in {enough} steps" in found[0]


def test_every_objective_but_the_default_has_its_steps() -> None:
    assert STEPS_TO_LEARN.keys() | {"simclr"} == OBJECTIVES.keys()

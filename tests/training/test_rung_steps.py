"""When rungs are scored: evenly spaced, or from a first rung on."""

from __future__ import annotations

from pathlib import Path

import pytest

from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.training.setup import prepare_training
from helpers import tiny_search


def rung_steps(tmp_path: Path, **settings: float) -> list[int]:
    """The steps of all rungs of a run of 4 steps an epoch."""
    config = resolve(tiny_search.settings(tmp_path, **settings))
    setup = prepare_training(config)
    return [setup.rung_step(rung) for rung in range(config.rungs + 1)]


def test_rungs_are_evenly_spaced(tmp_path: Path) -> None:
    steps = rung_steps(tmp_path, epochs=5, rungs=3)
    assert steps == [0, round(steps[-1] / 3), round(2 * steps[-1] / 3), steps[-1]]


@pytest.mark.parametrize(("rungs", "shares"), [(1, [1]), (2, [0.5, 1]), (3, [0.5, 0.75, 1])])
def test_the_first_rung_can_be_placed(tmp_path: Path, rungs: int, shares: list[float]) -> None:
    steps = rung_steps(tmp_path, epochs=4, rungs=rungs, first_rung=0.5)
    assert steps == [0, *(round(share * steps[-1]) for share in shares)]


def test_the_presets_first_rung_is_for_its_own_number_of_rungs() -> None:
    assert resolve({"budget": "quick"}).first_rung > 0
    assert resolve({"budget": "quick", "rungs": 5}).first_rung == 0
    assert resolve({"budget": "quick", "rungs": 5, "first_rung": 0.3}).first_rung == 0.3


def test_rungs_at_the_same_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--first-rung 0\.9 leaves no step between some of 3"):
        rung_steps(tmp_path, epochs=2, rungs=3, first_rung=0.9)

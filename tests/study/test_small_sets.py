"""A search on fewer images than the batch size: what is counted, and how it ends without heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from headsearch.cli import output
from headsearch.runs import run as runs
from helpers.synthetic_runs import facts
from helpers.tiny_search import begun


def test_a_step_counts_the_images_that_it_has(tmp_path: Path) -> None:
    setup = begun(tmp_path, "run", images=45, batch_size=10**9, rungs=2)
    assert setup.batch == setup.training.batch == 45
    assert any("2 steps of 45 images (2 epochs)" in note for note in setup.notes)
    assert any("more than the 45 training images" in note for note in setup.notes)


@pytest.mark.parametrize(
    ("states", "code"), [(["failed", "failed"], 1), (["failed", "complete"], 0), ([], 0)]
)
def test_a_search_without_a_head_that_trained_fails(
    states: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = type("Found", (), {"facts": facts(), "ranking": None})
    rows = [type("Row", (), {"state": state})() for state in states]
    monkeypatch.setattr(runs, "read_run", lambda path: found)
    monkeypatch.setattr("headsearch.runs.tables.ranked", lambda ranking: rows)
    if code:
        with pytest.raises(typer.Exit) as stop:
            output.end_without_heads(tmp_path)
        assert stop.value.exit_code == code
    else:
        output.end_without_heads(tmp_path)

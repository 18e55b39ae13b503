"""Plots that fail, and what a user's matplotlib may do to them: the report is written anyway."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from headsearch.report import document, write_report
from headsearch.report.plots.style import RC, plotting
from headsearch.runs.run import Run
from helpers import synthetic_runs


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(RC, "savefig.dpi", 30)
    return synthetic_runs.run(tmp_path)


def test_a_plot_that_fails_is_named_with_its_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Run) -> None:
        raise OverflowError("image <too> large\nfor anything")

    monkeypatch.setitem(document.PLOTS, "pruning_timeline", (fail, "How long"))
    html = write_report(run).read_text()
    assert "A plot could not be drawn: pruning_timeline: image &lt;too&gt; large" in html
    assert "for anything" not in html
    markdown = (run.path / "report.md").read_text()
    assert "A plot could not be drawn: pruning\\_timeline: image &lt;too&gt; large" in markdown
    assert "(plots/pruning_timeline.png)" not in markdown
    assert html.count('<div class="still"><svg') == 2


def test_plots_that_cannot_be_written_cost_no_report(run: Run) -> None:
    (run.path / "plots").write_text("in the way")
    html = write_report(run).read_text()
    assert html.count("A plot could not be drawn: ") == 3
    assert "cannot write the plot" in html


def test_a_matplotlibrc_of_the_users_changes_no_plot(run: Run, tmp_path: Path) -> None:
    write_report(run)
    before = (tmp_path / "report.html").read_bytes()
    with mpl.rc_context({"text.usetex": True, "lines.linewidth": 9, "axes.grid": True}):
        html = write_report(run)
        assert mpl.rcParams["text.usetex"] is True
    assert "could not be drawn" not in html.read_text()
    assert html.read_bytes() == before


def test_a_backend_that_is_not_installed_here() -> None:
    """As a notebook sets it for the processes that it starts."""
    backend = "inline"
    code = "import os, headsearch.report.plots.style; print(os.environ['MPLBACKEND'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MPLBACKEND": backend, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{backend}\n"), done.stderr


def test_the_users_settings_are_back_afterwards() -> None:
    before = dict(mpl.rcParams)
    with plotting():
        assert mpl.rcParams["font.size"] == RC["font.size"]
    assert dict(mpl.rcParams) == before

"""`watch`: the page follows a search, and ends with it however it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headsearch.report import document, watching
from headsearch.report.watching import ending, follow
from headsearch.runs.directory import HOLDER, hold, in_use
from headsearch.runs.run import is_running, read_run
from headsearch.runs.tables import write_table
from helpers import synthetic_runs
from helpers.command_line import in_process
from helpers.run_directories import write_facts, write_run

PUBLISHED = Path(__file__).parents[2] / "results" / "cifar10" / "vit-short"
REFRESH = '<meta http-equiv="refresh" content="7">'


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "PLOTS", {})


def write(path: Path, last: int, status: str) -> Path:
    return write_run(synthetic_runs.run(path, last=last, status=status))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens at each wait, in order; one more wait is a failure."""
    steps: list[Callable[[], object]] = []
    monkeypatch.setattr(watching, "sleep", lambda seconds: steps.pop(0)())
    return steps


def test_the_page_follows_a_search_from_its_start_to_its_end(
    tmp_path: Path, waits: list[Callable[[], object]]
) -> None:
    path = write(tmp_path / "run", -1, "running")
    page, told, lock = path / "report.html", [], hold(path)
    pages: list[tuple[str, int]] = []

    def note() -> None:
        pages.append((page.read_text(), page.stat().st_mtime_ns))

    def score() -> None:
        note()
        write(path, 2, "running")

    def end() -> None:
        note()
        write(path, 4, "complete")
        lock.release()

    waits += [score, note, end]
    run = follow(path, every_s=7, tell=told.append)
    nothing_yet, scored, unchanged = pages
    assert REFRESH in nothing_yet[0]
    assert "No rung scored yet" in nothing_yet[0]
    assert REFRESH in scored[0]
    assert "rung 2 of 4 scored" in scored[0]
    assert unchanged == scored, "written again only for new scores"
    assert "refresh" not in page.read_text()
    assert "run complete, rung 4 of 4 scored" in page.read_text()
    assert told == [
        "no rung scored yet",
        "rung 2 of 4 scored: 12 heads, bottleneck-d2-k3 is first",
        "rung 4 of 4 scored: 12 heads, bottleneck-d2-k3 is first",
    ]
    assert ending(run) == "the search is complete"


def test_a_search_whose_process_was_killed_is_over(
    tmp_path: Path, waits: list[Callable[[], object]]
) -> None:
    path = write(tmp_path / "run", 2, "running")
    waits.append(hold(path).release)
    run = follow(path, every_s=7)
    assert "refresh" not in (path / "report.html").read_text()
    assert ending(run).startswith("the search was interrupted, or its process was killed: ")
    assert f"`headsearch resume {path}`" in ending(run)


def test_a_search_that_ends_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables are those of the last rung already; how it ended is in its study alone."""
    path = write(tmp_path / "run", 4, "running")
    lock = hold(path)

    def read(path: Path) -> object:
        run = read_run(path)
        if lock.is_locked:
            write_facts(synthetic_runs.run(path))
            lock.release()
        return run

    monkeypatch.setattr(watching, "read_run", read)
    run = follow(path, every_s=7)
    assert ending(run) == "the search is complete"
    assert "run complete, rung 4 of 4 scored" in (path / "report.html").read_text()


def test_tables_that_are_replaced_while_they_are_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ranking.csv is newer than rungs.csv for a moment; the page shows both of one rung."""
    path = write(tmp_path / "run", 1, "interrupted")
    newer = synthetic_runs.run(path, last=2)
    write_table(path / "ranking.csv", newer.ranking)
    reads = []

    def read(path: Path) -> object:
        reads.append(read_run(path))
        write_table(path / "rungs.csv", newer.rungs) if len(reads) == 1 else None
        return reads[-1]

    monkeypatch.setattr(watching, "read_run", read)
    run = follow(path, every_s=7)
    assert len(reads) == 3, "again, and once more because it is not running"
    assert run.rungs["rung"].max() == run.ranking["rungs"].max() == 2


def test_what_is_known_of_a_process(tmp_path: Path) -> None:
    path = write(tmp_path / "run", 2, "running")
    assert in_use(path) is False, "no process ever used it"
    assert not is_running(read_run(path))
    with hold(path):
        assert in_use(path) is True
        assert is_running(read_run(path))
        write(path, 4, "complete")
        assert not is_running(read_run(path)), "verify may hold it"
        write(path, 2, "interrupted")
        assert is_running(read_run(path)), "it is being resumed"
    assert in_use(path) is False
    (path / HOLDER).write_text("process 1 on elsewhere since 2026-01-12 09:30:00")
    assert in_use(path) is None
    assert not is_running(read_run(path))
    write(path, 2, "running")
    assert is_running(read_run(path))


def test_ctrl_c_leaves_a_page_without_refresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "run", 2, "running")
    out = tmp_path / "page"

    def interrupted(seconds: float) -> None:
        assert '<meta http-equiv="refresh" content="10">' in (out / "report.html").read_text()
        raise KeyboardInterrupt(2)

    monkeypatch.setattr(watching, "sleep", interrupted)
    with hold(path):
        code, said, err = in_process(capsys, monkeypatch, "watch", str(path), "--out", str(out))
    assert (code, err) == (130, "")
    assert said.startswith(f"page: {out / 'report.html'}\n")
    assert f"no longer watching {path}, which goes on by itself" in said
    assert "refresh" not in (out / "report.html").read_text()
    assert not (path / "report.html").exists()


@pytest.mark.parametrize(("status", "expected"), [("complete", 0), ("failed", 1)])
def test_the_exit_code_says_how_the_search_ended(
    status: str, expected: int, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = write(tmp_path / "run", 4, status)
    code, said, err = in_process(capsys, monkeypatch, "watch", str(path), "--every", "7")
    assert (code, err) == (expected, "")
    assert ("the search is complete" in said) == (status == "complete")
    assert ("the search failed" in said) == (status == "failed")


def test_a_run_that_may_only_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published run has neither a study nor a process; nothing is written into it."""
    before = {file: file.stat().st_mtime_ns for file in PUBLISHED.rglob("*")}
    code, said, _ = in_process(capsys, monkeypatch, "watch", str(PUBLISHED), "--out", str(tmp_path))
    assert code == 1
    assert "no process runs this search, and its study does not say how it ended" in said
    assert (tmp_path / "report.html").is_file()
    assert {file: file.stat().st_mtime_ns for file in PUBLISHED.rglob("*")} == before


def test_what_is_no_search_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = in_process(capsys, monkeypatch, "watch", str(tmp_path))
    assert code == 2
    assert "not a run directory" in err

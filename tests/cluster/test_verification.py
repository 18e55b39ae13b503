"""Solo runs on an engine: those of `pretrain`, each once, continued from a snapshot if lost."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from headsearch.cluster import jobs
from headsearch.cluster.engine import Message
from headsearch.cluster.search import ATTEMPTS
from headsearch.cluster.verification import EngineVerification
from headsearch.errors import UserError
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.pretraining.solo import SoloDivergedError
from headsearch.pretraining.verification import Verification
from headsearch.runs.run import read_run
from helpers.inline_engine import InlineEngine, searched

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose best head is to be verified."""
    return searched(tmp_path_factory.mktemp("search"), epochs=1, rungs=1, cohort=4)


def verified(run: Path, engine: InlineEngine, seeds: int) -> EngineVerification:
    verification = Verification(
        read_run(run), top=1, seeds=seeds, controls=False, jobs=1, threads=1, device="cpu"
    )
    return EngineVerification(verification, engine, grace=60)


def test_solo_runs_are_those_of_pretrain_also_if_one_is_lost(run: Path, tmp_path: Path) -> None:
    engine = InlineEngine()
    lost = []

    def heard(message: Message) -> None:
        if message["kind"] == "step" and not lost:
            lost.append(message)
            engine.lose()

    engine.heard = heard
    running = verified(run, engine, seeds=2)
    running.run()
    assert running.complete
    assert len(engine.orders) == 4 + 1
    assert not (run / ATTEMPTS).exists()
    found = read_run(run)
    assert "gain" in found.ranking.columns
    assert (run / "solo" / "none-seed1" / "base.safetensors").is_file()
    first = found.ranking["candidate"][0]
    for seed, head in ((0, "none"), (1, first)):  # the search did not have seed 1
        asked = {"seed": seed, "data_seed": 0, "rungs": 1, "out": tmp_path / f"{head}-{seed}"}
        pretraining = Pretraining(prepare_pretraining(asked, run=found, head=head))
        pretraining.run()
        [row] = found.solo[
            (found.solo["candidate"] == head) & (found.solo["seed"] == seed)
        ].to_dict("records")
        for column in ("base_knn", "base_linear", "choose_knn", "choose_linear"):
            assert row[column] == pytest.approx(pretraining.rows[-1][column], abs=1e-6)
    again = InlineEngine()
    verified(run, again, seeds=2).run()
    assert again.orders == []


def test_a_solo_run_that_diverges_is_reported_and_the_others_count(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Pretraining.run

    def diverging(self: Pretraining, *observers: object) -> None:
        if self.planned.candidate is None:
            raise SoloDivergedError("the base diverged")
        train(self, *observers)

    monkeypatch.setattr(jobs.Pretraining, "run", diverging)
    running = verified(run, InlineEngine(), seeds=3)
    running.run()
    assert running.failures == ["none seed 2: the base diverged"]
    assert running.complete


def test_other_data_are_refused_in_a_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headsearch.cluster.plan.difference", lambda *_: "other images")
    with pytest.raises(UserError, match="not the data that the run began with: other images"):
        verified(run, InlineEngine(), seeds=4).run()

"""One run: Optuna asks, cohorts train, scores are reported at every rung, the pruner decides.

`Search` makes the run directory of what `preparation.prepare` made ready; its `run` is a generator
that searches and yields what happens.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import optuna
import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from headsearch import checkpoint
from headsearch.checkpoint import Run
from headsearch.cohorts import Entrant, cohort_sizes, cohorts, planned
from headsearch.errors import UserError
from headsearch.ground import NOTHING_GIVEN, Given, Ground
from headsearch.ledger import Ledger, Standing
from headsearch.machine import resolve_here
from headsearch.pace import Pace
from headsearch.preparation import Prepared, prepare, settings_of
from headsearch.pruning import make_pruner
from headsearch.run_directory import create, hold, new_run_directory, run_label
from headsearch.scores.collapse import collapse_reason
from headsearch.scores.rung import (
    BASE,
    PROBE_IMAGES,
    RungScores,
    Scores,
    mean_over_seeds,
    raw_pixels,
)
from headsearch.snapshot import Snapshot, read_snapshot, write_snapshot
from headsearch.train import Health, Trainer, head_step_ms, train


@dataclass(frozen=True)
class Advanced:
    """Some steps of a cohort were done; the ledger holds the new losses.

    Attributes:
        step: steps of the cohort, under all seeds together.
    """

    cohort: int
    step: int
    pace: Pace
    ledger: Ledger


@dataclass(frozen=True)
class Scored:
    """A rung was scored and the pruner has decided; the tables are written."""

    cohort: int
    rung: int
    step: int
    scores: RungScores
    pace: Pace
    ledger: Ledger


TRIAL_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "collapsed": TrialState.FAIL,
    "failed": TrialState.FAIL,
}
"""What Optuna calls the states in which a head may end."""

Event: TypeAlias = Advanced | Scored


@dataclass
class _Live:
    """A head that still trains: its Optuna trial and its row."""

    trial: optuna.Trial
    standing: Standing


@dataclass(frozen=True)
class _Replica:
    """A cohort's training under one seed."""

    ground: Ground
    trainer: Trainer

    @property
    def seed(self) -> int:
        return self.ground.config.seed


@dataclass
class _Cohort:
    """A cohort in training.

    Attributes:
        index: its number, from 0.
        replicas: one a seed.
        live: its heads that still train, by name.
        rung: the one that it trains toward.
        steps: done under each seed.
    """

    index: int
    replicas: list[_Replica]
    live: dict[str, _Live]
    rung: int
    steps: dict[int, int]


class Search:
    """A search in its run directory: one loop over cohorts, in each one loop over rungs.

    Making one writes the run directory with its config.yaml and the Optuna study, or takes up the
    one that an earlier process left.

    Args:
        prepared: what is searched.
        directory: a run directory with these settings that is there already: claimed for this
            search (`run_directory.claimed`), or left by an earlier process, to be gone on with.

    Attributes:
        run_directory: where it writes.
        stop: once set, the step under way is the last, and a snapshot is written.

    Raises:
        UserError: the run directory exists, cannot be made, or cannot be gone on with.
    """

    def __init__(self, prepared: Prepared, directory: Path | None = None) -> None:
        self.prepared = prepared
        self.config = config = prepared.config
        self.stop = threading.Event()
        self.run_directory = directory or new_run_directory(config.out, run_label(config))
        settings = settings_of(prepared, self.run_directory)
        if config.storage is not None:
            checkpoint.check_storage(config.storage)
        if directory is None:
            create(self.run_directory, settings)
        self._lock = hold(self.run_directory)
        try:
            self._open(checkpoint.same_settings(self.run_directory, settings))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, settings: Mapping[str, Any]) -> None:
        """Opens the study and the snapshot, or makes the first of both."""
        prepared, config = self.prepared, self.config
        self._left = read_snapshot(self.run_directory)
        pruner = make_pruner(
            config.pruner, eta=config.eta, min_keep=config.min_keep, rungs=config.rungs
        )
        storage = checkpoint.storage_url(self.run_directory, settings)
        name = settings["study_name"]
        try:
            if self._left is None:
                self.study = optuna.create_study(
                    study_name=name,
                    storage=storage,
                    pruner=pruner,
                    direction="maximize",
                    load_if_exists=True,
                )
            else:
                self.study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        except (KeyError, SQLAlchemyError, StorageInternalError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.run_directory}: its study cannot be opened ({reason}): search again"
            ) from None
        self.ledger = Ledger()
        count = planned(prepared.space, prepared.listing, config)
        self.pace = Pace(
            config.batch_size,
            prepared.steps * config.seeds,
            config.rungs,
            len(cohort_sizes(count, config.cohort)),
        )
        self.facts = _first_facts(prepared)
        self._kept_at = time.monotonic()
        if self._left is not None:
            self._restore(self._left)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided, and where it goes on, a line each."""
        if self._left is None:
            return self.prepared.notes
        at = self._left.record
        steps = sum(at["steps"].values())
        where = f"cohort {at['cohort'] + 1}, step {steps}, before rung {at['rung']}"
        return (*self.prepared.notes, f"going on from the last snapshot: {where}")

    @property
    def complete(self) -> bool:
        """Whether it has come to its end."""
        return self.facts.get("status") == "complete"

    def run(self) -> Generator[Event, None, None]:
        """Searches, yielding what happens; whoever shows it needs no callback.

        Closing the generator, or setting `stop`, ends the search early with a snapshot, from which
        another `Search` goes on; so does Ctrl-C, from the last snapshot that was written.

        Raises:
            UserError: the base itself diverges, or the run directory cannot be written any more.
        """
        status = "interrupted"
        begin = self._left.record["cohort"] if self._left is not None else 0
        try:
            self._save("running")
            if self.prepared.data.bank is not None and "raw_knn" not in self.facts["baselines"]:
                self._note_baseline("raw", raw_pixels(self.prepared.data))
            space, listing = self.prepared.space, self.prepared.listing
            closed = begin if self._left is not None else None
            asked = cohorts(self.study, space, listing, self.config, begin, closed)
            for index, entrants in asked:
                yield from self._train_cohort(self._begun(index, entrants))
                if self.stop.is_set():
                    return
            status = "complete"
        except (SQLAlchemyError, StorageInternalError) as error:
            raise self._cannot_write(str(error)) from error
        except Exception:
            status = "failed"
            raise
        finally:
            with suppress(UserError, SQLAlchemyError, StorageInternalError):
                self._save(status)
            self._lock.release()

    def _begun(self, index: int, entrants: list[Entrant]) -> _Cohort:
        """A cohort from the base's first weights, or from where the snapshot left it."""
        seeds = range(self.config.seed, self.config.seed + self.config.seeds)
        grounds = [self.prepared.under(seed) for seed in seeds]
        replicas = [_Replica(ground, self._new_trainer(ground)) for ground in grounds]
        left = self._left if self._left and self._left.record["cohort"] == index else None
        steps = dict.fromkeys(seeds, 0)
        cohort = _Cohort(index, replicas, {}, 0, steps)
        if left is not None:
            cohort.rung = left.record["rung"]
            cohort.steps = {int(seed): done for seed, done in left.record["steps"].items()}
        for entrant in entrants:
            candidate = entrant.candidate
            standing = self.ledger.standings.get(candidate.name) if left is not None else None
            if standing is None:
                standing = self.ledger.enter(candidate, entrant.trial.number, index)
            if not standing.ended:
                self._attach(replicas, standing)
                cohort.live[candidate.name] = _Live(entrant.trial, standing)
        for replica in replicas if left is not None else []:
            assert left is not None
            prefix = f"{replica.seed}."
            replica.trainer.load_state(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in left.tensors.items()
                    if name.startswith(prefix)
                }
            )
        if left is not None:
            self._left = replace(left, tensors={})
        return cohort

    def _train_cohort(self, cohort: _Cohort) -> Iterator[Event]:
        """Trains a cohort through its rungs, under every seed.

        At each rung the seeds catch up with one another: the pruner decides by their mean.
        """
        index, live = cohort.index, cohort.live
        while cohort.rung <= self.config.rungs:
            rung = cohort.rung
            for replica in cohort.replicas:
                for _ in self._advance(cohort, replica):
                    yield from self._advanced(cohort)
                    if self.stop.is_set() or self._keep_is_due():
                        self._keep(cohort)
                    if self.stop.is_set():
                        return
            scores = self._score(cohort)
            self._decide(cohort)
            cohort.rung = rung + 1 if live else self.config.rungs + 1
            self._keep(cohort)
            self._tell_ended()
            self._save("running")
            step = self.prepared.rung_step(rung)
            yield Scored(index, rung, step, scores, self.pace, self.ledger)
            if self.stop.is_set() or not live:
                return

    def _advanced(self, cohort: _Cohort) -> Iterator[Event]:
        """The news of some steps; whoever closes the search at them leaves a snapshot."""
        try:
            yield Advanced(cohort.index, sum(cohort.steps.values()), self.pace, self.ledger)
        except GeneratorExit:
            self._keep(cohort)
            raise

    def _advance(self, cohort: _Cohort, replica: _Replica) -> Iterator[None]:
        """Trains a cohort under one seed up to its rung, with a pause now and then."""
        ground, first = replica.ground, cohort.steps[replica.seed]
        last = ground.rung_step(cohort.rung)
        images, stop = ground.data.train, self.stop.is_set
        self.pace.start()
        for progress in train(replica.trainer, images, ground.config, first, last, stop):
            taken = progress.step - cohort.steps[replica.seed]
            cohort.steps[replica.seed] = progress.step
            self.pace.trained(taken)
            self._note_cost(taken, cohort.live)
            if progress.health is not None:
                self._note_health(progress.health, replica, cohort)
            yield
            self.pace.start()

    def _keep_is_due(self) -> bool:
        return time.monotonic() - self._kept_at > 60 * self.config.snapshot_every

    def _keep(self, cohort: _Cohort) -> None:
        """Writes a snapshot of the cohort as it stands, and of all that came before it."""
        tensors = {
            f"{replica.seed}.{name}": tensor
            for replica in cohort.replicas
            for name, tensor in replica.trainer.state().items()
        }
        record = {
            "cohort": cohort.index,
            "rung": cohort.rung,
            "steps": cohort.steps,
            "ledger": self.ledger.record_of(),
            "pace": self.pace.record_of(),
            "facts": self.facts,
        }
        try:
            write_snapshot(self.run_directory, Snapshot(tensors, record))
        except OSError as error:
            raise self._cannot_write(error.strerror or str(error)) from error
        self._kept_at = time.monotonic()

    def _restore(self, left: Snapshot) -> None:
        """Becomes the search that a snapshot was taken of, and brings the study up to it."""
        trials = self.study.get_trials(deepcopy=False)
        candidates = {
            trial.number: self.prepared.space.suggest(trial)
            for trial in trials
            if "cohort" in trial.user_attrs
        }
        unknown_trials = [
            name
            for name, standing in left.record["ledger"]["standings"].items()
            if standing["trial"] not in candidates
        ]
        if unknown_trials:
            raise UserError(
                f"{self.run_directory}: its study has no trial of {unknown_trials[0]}: search again"
            )
        facts = left.record["facts"]
        for name in ("images", "steps"):
            if facts[name] != self.facts[name]:
                raise UserError(
                    f"{self.run_directory}: {facts[name]} {name} when it began, {self.facts[name]} "
                    "now: the data have changed; search again"
                )
        self.ledger.restore(left.record["ledger"], candidates)
        self.pace.restore(left.record["pace"])
        self.facts = dict(facts)
        self._tell_ended()

    def _new_trainer(self, ground: Ground) -> Trainer:
        """A base that depends on the seed alone: every cohort starts from the same weights."""
        return ground.new_trainer(self.config.coupling)

    def _attach(self, replicas: list[_Replica], standing: Standing) -> None:
        """Attaches a head under every seed, and times a step of it on its own."""
        prepared, candidate = self.prepared, standing.candidate
        dim, grid = prepared.plan.stages[candidate.place]

        def build() -> nn.Module:
            return candidate.build(dim, grid)

        for replica in replicas:
            replica.trainer.attach(candidate.name, build, dim, candidate.place)
        if math.isnan(standing.step_ms):
            features = torch.zeros(2 * self.config.batch_size, dim, *grid, device=prepared.device)
            standing.step_ms = head_step_ms(build, features, autocast=prepared.autocast)

    def _score(self, cohort: _Cohort) -> RungScores:
        """Scores base and heads, sets collapsed heads aside, reports the others to Optuna.

        Returns:
            The means over seeds.
        """
        self.pace.start()
        rung, live = cohort.rung, cohort.live
        step = self.prepared.rung_step(rung)
        known = self.study.get_trials(deepcopy=False)
        by_seed = {
            replica.seed: self.prepared.scores(replica.trainer.teacher.network)
            for replica in cohort.replicas
        }
        scores = mean_over_seeds(list(by_seed.values()))
        self.facts["dominant_share"] = scores.dominant_share
        if rung == 0:
            self._note_baseline("untrained", scores.base)
        for name, head in list(live.items()):
            standing, found = head.standing, []
            for seed, under in by_seed.items():
                found.append(under.heads[name].by(self.prepared.rank_by))
                self.ledger.record_seed(standing, seed, rung, step, under, found[-1])
            self.ledger.record(standing, rung, step, step * self.config.batch_size, scores)
            standing.score = fmean(found)
            collapses = (self._collapse(name, under, standing) for under in by_seed.values())
            reason = next(filter(None, collapses), None)
            if rung and reason is not None:
                self._leave(cohort, name, "collapsed", reason)
            elif not _knows(known[standing.trial], rung):
                head.trial.report(standing.score, rung)
        self.pace.scored()
        return scores

    def _collapse(self, name: str, scores: RungScores, standing: Standing) -> str | None:
        """Why a head counts as collapsed under a seed, None if it does not."""
        head, base = scores.heads[name], scores.base
        use = head.prototype_use
        return collapse_reason(
            head.effective_rank,
            self.prepared.plan.stages[standing.candidate.place].dim,
            use.of_mean if use else None,
            use.prototypes if use else None,
            images=len(self.prepared.data.queries),
            base_rank=base.effective_rank,
            image_entropy=use.of_images if use else None,
            base_information=base.prototype_use.information if base.prototype_use else None,
        )

    def _decide(self, cohort: _Cohort) -> None:
        """Lets the pruner decide at a rung; after the last one, every head is complete."""
        rung, live = cohort.rung, cohort.live
        if rung == self.config.rungs:
            for name in list(live):
                self._leave(cohort, name, "complete", "")
        elif rung > 0:
            # All have reported, and all are asked before any is told: no order can matter.
            pruned = [name for name, head in live.items() if _pruned(head.trial, rung)]
            contest = sum(not head.standing.candidate.control for head in live.values())
            stay = contest - len(pruned)
            for name in pruned:
                reason = (
                    f"not among the best {stay} of {contest} at rung {rung}"
                    if self.config.pruner == "rung"
                    else f"pruned by {self.config.pruner} at rung {rung}"
                )
                self._leave(cohort, name, "pruned", reason)

    def _leave(self, cohort: _Cohort, name: str, state: str, reason: str) -> None:
        """Ends a head's training: in the networks and in the tables. Optuna is told later."""
        standing = cohort.live.pop(name).standing
        for replica in cohort.replicas:
            replica.trainer.detach(name)
        standing.state, standing.reason = state, reason

    def _tell_ended(self) -> None:
        """Tells Optuna how heads have ended.

        That cannot be taken back, so it comes after the snapshot in which they have; whatever
        happens between the two, the next process tells it.
        """
        trials = self.study.get_trials(deepcopy=False)
        for standing in self.ledger.standings.values():
            if not standing.ended or standing.told:
                continue
            standing.told = True
            if trials[standing.trial].state.is_finished():
                continue
            trial = optuna.Trial(self.study, trials[standing.trial]._trial_id)
            row = standing.row()
            for key in ("discrepancy", "head_knn", "head_linear", "reason"):
                if row[key] == row[key] and row[key] != "":
                    trial.set_user_attr(key, row[key])
            state = TRIAL_STATES[standing.state]
            value = standing.score if state == TrialState.COMPLETE else None
            self.study.tell(trial, value, state)

    def _note_health(self, health: Health, replica: _Replica, cohort: _Cohort) -> None:
        """Notes the losses; sets aside, under all seeds, heads that were not finite under one.

        Raises:
            UserError: the base itself diverged; its heads cannot go on either.
        """
        live = cohort.live
        for name, head in live.items():
            head.standing.losses[replica.seed] = health.owners[name].loss
        diverged = [name for name in live if name in health.blamed]
        base_diverged = not health.base_sound or not (diverged or health.owners[BASE].finite)
        for name in list(live) if base_diverged else diverged:
            reason = "the base diverged" if base_diverged else "loss or gradient not finite"
            self._leave(cohort, name, "failed", reason)
        if base_diverged:
            self.facts["diverged"] = True
            self._tell_ended()
            raise UserError(
                f"the base diverged: its features or gradients are not finite; try a lower --lr "
                f"than {self.config.lr:g}"
            )

    def _note_cost(self, steps: int, live: dict[str, _Live]) -> None:
        """Adds up what training cost, in units of the base's own training of the same length."""
        whole = self.prepared.plan.gflops
        heads = sum(head.standing.candidate.gflops for head in live.values()) / whole
        self.facts["cost_base_equivalents"] += (1 + heads) * steps / self.prepared.steps
        self.facts["solo_equivalents"] = self.config.seeds * sum(
            1 + standing.candidate.gflops / whole for standing in self.ledger.standings.values()
        )

    def _note_baseline(self, name: str, scores: Scores) -> None:
        if scores.report is not None:
            self.facts["baselines"][f"{name}_knn"] = scores.report.knn
            self.facts["baselines"][f"{name}_linear"] = scores.report.linear

    def _save(self, status: str) -> None:
        """Writes the tables and the facts as they are now."""
        self.facts.update(status=status, **self.pace.facts())
        self.facts["baselines"].update(self.ledger.base_beside_the_first())
        try:
            self.ledger.write(self.run_directory)
        except OSError as error:
            raise self._cannot_write(error.strerror or str(error)) from error
        self.study.set_user_attr("facts", self.facts)

    def _cannot_write(self, reason: str) -> UserError:
        return UserError(
            f"{self.run_directory}: cannot write: {reason.splitlines()[0]}; what was written "
            f"before stands: mend that, then headsearch resume {self.run_directory}"
        )


def _first_facts(prepared: Prepared) -> dict[str, Any]:
    """What a run says about itself: read back as `checkpoint.Run.facts`."""
    data, plan = prepared.data, prepared.plan
    return {
        "started": datetime.now().isoformat(timespec="seconds"),
        "base": {
            "name": plan.name,
            "timm_name": plan.timm_name,
            "dim": plan.dim,
            "grid": list(plan.grid),
            "params_m": plan.params_m,
            "gflops": plan.gflops,
        },
        "device": str(prepared.device),
        "precision": "bf16" if prepared.autocast else "float32",
        "threads": torch.get_num_threads(),
        "images": len(data.train),
        "eval": {
            "bank": len(data.bank) if data.bank is not None else 0,
            "choose": len(data.choose),
            "report": len(data.report),
            "probe": min(PROBE_IMAGES, len(data.queries)),
            "classes": len(data.bank.classes) if data.bank is not None else 0,
        },
        "labelled": data.bank is not None,
        "baselines": {},
        "rung_count": prepared.config.rungs,
        "seeds": prepared.config.seeds,
        "steps": prepared.steps,
        "space_size": prepared.space.size,
        "excluded": len(prepared.listing.excluded) if prepared.listing is not None else None,
        "cost_base_equivalents": 0.0,
        "solo_equivalents": 0.0,
    }


def _knows(trial: FrozenTrial, rung: int) -> bool:
    """Whether Optuna has a report of this rung, from before an interruption, and keeps to it."""
    return rung in trial.intermediate_values or trial.state.is_finished()


def _pruned(trial: optuna.Trial, rung: int) -> bool:
    """Whether the pruner lets a trial go at a rung.

    It is asked once: some of Optuna's remember that they were, and would answer otherwise.
    """
    key = f"pruned_at_{rung}"
    if key not in trial.user_attrs:
        trial.set_user_attr(key, trial.should_prune())
    return bool(trial.user_attrs[key])


def resume_search(run: Run, given: Given = NOTHING_GIVEN) -> Search:
    """The search that goes on where an earlier process left this run.

    Args:
        given: what was given to it in Python.

    Raises:
        UserError: it lacks something that was given, or something has changed since it began.
    """
    for name in run.config.get("given", []):
        if getattr(given, name) is None:
            raise UserError(
                f"{run.path}: its {name} was given in Python; give it again there: "
                f"headsearch.resume(…, {name}=…)"
            )
    if run.facts.get("diverged"):
        raise UserError(f"{run.path}: its base diverged; search again with a lower --lr")
    config = resolve_here({}, run.path / "config.yaml")
    return Search(prepare(config, given=given), run.path)

"""One run: Optuna asks, cohorts train, scores are reported at every rung, the pruner decides.

`Search` makes the run directory of what `preparation.prepare` made ready; its `run` is a generator
that searches and yields what happens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from headsearch import checkpoint
from headsearch.checkpoint import Run
from headsearch.cohort import Cohort, Replica
from headsearch.entrants import Entrant, ask_for_cohorts, cohort_sizes, planned
from headsearch.errors import UserError
from headsearch.facts import first_facts, note_baseline
from headsearch.gains import write_gains
from headsearch.ground import NOTHING_GIVEN, Given
from headsearch.ledger import Ledger, Standing
from headsearch.machine import resolve_here
from headsearch.pace import Pace
from headsearch.preparation import Prepared, prepare, settings_of
from headsearch.run_directory import create, hold, new_run_directory, run_label
from headsearch.scores.collapse import collapse_reason
from headsearch.scores.rung import (
    BASE,
    RungScores,
    mean_over_seeds,
    raw_pixels,
)
from headsearch.shares import images_of_a_head
from headsearch.snapshot import Snapshot, read_snapshot, write_snapshot
from headsearch.train import Health, train
from headsearch.trials import STORAGE_ERRORS, Trials


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


Event: TypeAlias = Advanced | Scored


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
        self.trials = Trials(self.run_directory, config, settings, begun=self._left is not None)
        self.ledger = Ledger()
        count = planned(prepared.space, prepared.listing, config)
        self.pace = Pace(
            config.batch_size,
            prepared.steps * config.seeds,
            config.rungs,
            len(cohort_sizes(count, config.cohort)),
        )
        self.facts = first_facts(prepared)
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
                note_baseline(self.facts, "raw", raw_pixels(self.prepared.data))
            space, listing = self.prepared.space, self.prepared.listing
            closed = begin if self._left is not None else None
            asked = ask_for_cohorts(self.trials.study, space, listing, self.config, begin, closed)
            for index, entrants in asked:
                yield from self._train_cohort(self._begun(index, entrants))
                if self.stop.is_set():
                    return
            status = "complete"
        except STORAGE_ERRORS as error:
            raise self._cannot_write(str(error)) from error
        except Exception:
            status = "failed"
            raise
        finally:
            with suppress(UserError, *STORAGE_ERRORS):
                self._save(status)
                write_gains(checkpoint.read_run(self.run_directory))
            self._lock.release()

    def _begun(self, index: int, entrants: list[Entrant]) -> Cohort:
        """A cohort from the base's first weights, or from where the snapshot left it."""
        seeds = range(self.config.seed, self.config.seed + self.config.seeds)
        cohort = Cohort.new(index, self.prepared, seeds)
        left = self._left if self._left and self._left.record["cohort"] == index else None
        for entrant in entrants:
            candidate = entrant.candidate
            standing = self.ledger.standings.get(candidate.name) if left is not None else None
            if standing is None:
                standing = self.ledger.enter(candidate, entrant.trial.number, index)
            if not standing.ended:
                cohort.attach(standing)
        if left is not None:
            cohort.rung = left.record["rung"]
            cohort.steps = {int(seed): done for seed, done in left.record["steps"].items()}
            cohort.load_state(left.tensors)
            self._left = replace(left, tensors={})
        return cohort

    def _train_cohort(self, cohort: Cohort) -> Iterator[Event]:
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

    def _advanced(self, cohort: Cohort) -> Iterator[Event]:
        """The news of some steps; whoever closes the search at them leaves a snapshot."""
        try:
            yield Advanced(cohort.index, sum(cohort.steps.values()), self.pace, self.ledger)
        except GeneratorExit:
            self._keep(cohort)
            raise

    def _advance(self, cohort: Cohort, replica: Replica) -> Iterator[None]:
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

    def _keep(self, cohort: Cohort) -> None:
        """Writes a snapshot of the cohort as it stands, and of all that came before it."""
        record = {
            "cohort": cohort.index,
            "rung": cohort.rung,
            "steps": cohort.steps,
            "ledger": self.ledger.record_of(),
            "pace": self.pace.record_of(),
            "facts": self.facts,
        }
        try:
            write_snapshot(self.run_directory, Snapshot(cohort.state(), record))
        except OSError as error:
            raise self._cannot_write(error.strerror or str(error)) from error
        self._kept_at = time.monotonic()

    def _restore(self, left: Snapshot) -> None:
        """Becomes the search that a snapshot was taken of, and brings the study up to it."""
        candidates = self.trials.candidates(self.prepared.space)
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

    def _score(self, cohort: Cohort) -> RungScores:
        """Scores base and heads, sets collapsed heads aside, reports the others to Optuna.

        Returns:
            The means over seeds.
        """
        self.pace.start()
        rung, live = cohort.rung, cohort.live
        step = self.prepared.rung_step(rung)
        by_seed = {
            replica.seed: self.prepared.scores(replica.trainer.teacher.network)
            for replica in cohort.replicas
        }
        scores = mean_over_seeds(list(by_seed.values()))
        self.facts["dominant_share"] = scores.dominant_share
        if rung == 0:
            note_baseline(self.facts, "untrained", scores.base)
        for name, standing in list(live.items()):
            found = []
            for seed, under in by_seed.items():
                found.append(under.heads[name].by(self.prepared.rank_by))
                self.ledger.record_seed(standing, seed, rung, step, under, found[-1])
            self.ledger.record(standing, rung, step, step * self.config.batch_size, scores)
            standing.score = fmean(found)
            collapses = (self._collapse(name, under, standing) for under in by_seed.values())
            reason = next(filter(None, collapses), None)
            if rung and reason is not None:
                cohort.leave(name, "collapsed", reason)
        self.trials.report({head.trial: head.score for head in live.values()}, rung)
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

    def _decide(self, cohort: Cohort) -> None:
        """Lets the pruner decide at a rung; after the last one, every head is complete."""
        rung, live = cohort.rung, cohort.live
        if rung == self.config.rungs:
            for name in list(live):
                cohort.leave(name, "complete", "")
        elif rung > 0:
            # All have reported, and all are asked before any is told: no order can matter.
            gone = self.trials.pruned([head.trial for head in live.values()], rung)
            pruned = [name for name, head in live.items() if head.trial in gone]
            contest = sum(not head.candidate.control for head in live.values())
            stay = contest - len(pruned)
            for name in pruned:
                reason = (
                    f"not among the best {stay} of {contest} at rung {rung}"
                    if self.config.pruner == "rung"
                    else f"pruned by {self.config.pruner} at rung {rung}"
                )
                cohort.leave(name, "pruned", reason)

    def _tell_ended(self) -> None:
        """Tells Optuna how heads have ended.

        That cannot be taken back, so it comes after the snapshot in which they have; whatever
        happens between the two, the next process tells it.
        """
        self.trials.tell(self.ledger.standings.values())

    def _note_health(self, health: Health, replica: Replica, cohort: Cohort) -> None:
        """Notes the losses; sets aside, under all seeds, heads that were not finite under one.

        Raises:
            UserError: the base itself diverged; its heads cannot go on either.
        """
        live = cohort.live
        for name, head in live.items():
            head.losses[replica.seed] = health.owners[name].loss
        diverged = [name for name in live if name in health.blamed]
        base_diverged = not health.base_sound or not (diverged or health.owners[BASE].finite)
        for name in list(live) if base_diverged else diverged:
            reason = "the base diverged" if base_diverged else "loss or gradient not finite"
            cohort.leave(name, "failed", reason)
        if base_diverged:
            self.facts["diverged"] = True
            self._tell_ended()
            raise UserError(
                f"the base diverged: its features or gradients are not finite; try a lower --lr "
                f"than {self.config.lr:g}"
            )

    def _note_cost(self, steps: int, live: Mapping[str, Standing]) -> None:
        """Adds up what training cost, in units of the base's own training of the same length."""
        whole = self.prepared.plan.gflops
        shown = images_of_a_head(self.config.images_per_head, self.prepared.batch, len(live))
        heads = sum(head.candidate.gflops for head in live.values()) / whole
        heads *= shown / self.prepared.batch
        self.facts["cost_base_equivalents"] += (1 + heads) * steps / self.prepared.steps
        self.facts["solo_equivalents"] = self.config.seeds * sum(
            1 + standing.candidate.gflops / whole for standing in self.ledger.standings.values()
        )

    def _save(self, status: str) -> None:
        """Writes the tables and the facts as they are now."""
        self.facts.update(status=status, **self.pace.facts())
        self.facts["baselines"].update(self.ledger.base_beside_the_first())
        try:
            self.ledger.write(self.run_directory)
        except OSError as error:
            raise self._cannot_write(error.strerror or str(error)) from error
        self.trials.note(self.facts)

    def _cannot_write(self, reason: str) -> UserError:
        return UserError(
            f"{self.run_directory}: cannot write: {reason.splitlines()[0]}; what was written "
            f"before stands: mend that, then headsearch resume {self.run_directory}"
        )


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

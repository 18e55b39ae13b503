"""One run: Optuna asks, cohorts train, scores are reported at every rung, the pruner decides.

`Search` makes the run directory of what `preparation.prepare` made ready; its `run` is a generator
that searches and yields what happens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from headsearch import torchrun
from headsearch.device import out_of_memory, release_memory
from headsearch.errors import UserError
from headsearch.evaluation.collapse import collapse_reason
from headsearch.evaluation.rung import raw_pixels
from headsearch.evaluation.scores import RungScores, mean_over_seeds
from headsearch.models.network import BASE
from headsearch.report.statistics.gains import write_gains
from headsearch.runs.directory import create, hold, new_run_directory, run_label
from headsearch.runs.incidents import DivergedError, incidents
from headsearch.runs.run import Run, check_same_settings, read_run
from headsearch.runs.snapshot import read_snapshot
from headsearch.runs.storage import STORAGE_ERRORS, check_storage
from headsearch.study.cohort import Cohort, Replica
from headsearch.study.commands import Score, Steps, leading
from headsearch.study.events import Advanced, Event, Noted, Scored
from headsearch.study.leaderboard import Entry
from headsearch.study.proposals import enqueue
from headsearch.study.run_facts import note_baseline
from headsearch.study.setup import SearchSetup, prepare, settings_of
from headsearch.study.state import SearchState
from headsearch.study.trials import Trials
from headsearch.training.distributed import RankLostError, broadcast_object
from headsearch.training.environment import resolve_here
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs, check_inputs
from headsearch.training.loop import Progress, train
from headsearch.training.meters import StepStats


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

    def __init__(self, prepared: SearchSetup, directory: Path | None = None) -> None:
        self.prepared = prepared
        self.config = config = prepared.config
        self.stop = threading.Event()
        self.run_directory = directory or new_run_directory(config.out, run_label(config))
        settings = settings_of(prepared, self.run_directory)
        if config.storage is not None:
            check_storage(config.storage)
        if directory is None:
            create(self.run_directory, settings)
        self._lock = hold(self.run_directory)
        try:
            self._open(check_same_settings(self.run_directory, settings))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, settings: Mapping[str, Any]) -> None:
        """Opens the study and the snapshot, or makes the first of both."""
        left = read_snapshot(self.run_directory)
        begun = left is not None
        self.trials = Trials(self.run_directory, self.config, settings, begun=begun)
        self.state = SearchState(self.run_directory, self.prepared, self.trials)
        if left is not None:
            self.state.restore(left)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided, and where it goes on, a line each."""
        if self.state.left is None:
            return self.prepared.notes
        at = self.state.left.record
        steps = sum(at["steps"].values())
        where = f"cohort {at['cohort'] + 1}, step {steps}, before rung {at['rung']}"
        befell = incidents(self.state.facts)
        return (*self.prepared.notes, *befell, f"going on from the last snapshot: {where}")

    @property
    def complete(self) -> bool:
        """Whether it has come to its end."""
        return self.state.facts.get("status") == "complete"

    def run(self) -> Generator[Event, None, None]:
        """Searches, yielding what happens; whoever shows it needs no callback.

        Closing the generator, or setting `stop`, ends the search early with a snapshot, from which
        another `Search` goes on; so does Ctrl-C, from the last snapshot that was written.

        Raises:
            UserError: the base diverges whatever is tried, or the run directory cannot be written
                any more.
        """
        with leading(self.run_directory):
            yield from self._to_its_end()

    def _to_its_end(self) -> Generator[Event, None, None]:
        status, index = "interrupted", self.state.begun
        baselines = self.state.facts["baselines"]
        try:
            self.state.save("running")
            if self.prepared.data.bank is not None and "raw_knn" not in baselines:
                note_baseline(self.state.facts, "raw", raw_pixels(self.prepared.data))
            enqueue(self.trials.study, self.prepared.space, self.prepared.listing)
            while index < len(self.state.sizes):
                index = yield from self._search_cohort(index)
                if self.stop.is_set():
                    return
            status = "complete"
        except STORAGE_ERRORS as error:
            raise self.state.cannot_write(str(error)) from error
        except RankLostError:
            raise
        except Exception:
            status = "failed"
            raise
        finally:
            with suppress(UserError, *STORAGE_ERRORS):
                self.state.save(status)
                write_gains(read_run(self.run_directory))
            self._lock.release()

    def _search_cohort(self, index: int) -> Generator[Event, None, int]:
        """Trains a cohort to its end, or to where it has to go back or to be split.

        Returns:
            The cohort to go on with.
        """
        state = self.state
        if not state.enter(index):
            return index + 1
        cohort = state.cohort(index)
        try:
            cohort.set_up(self.prepared, state.leaderboard.live(index), state.lr)
            state.load_into(cohort)
            yield from self._train_cohort(cohort)
            return index + 1
        except DivergedError as error:
            diverged: tuple[int, int] | None = (error.seed, error.step)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if torchrun.count() > 1:  # whether the others have it, too, cannot be waited for
                raise UserError(
                    f"memory does not suffice for a cohort of {len(cohort.live)} heads, and one "
                    "that several processes train is not split: search again with a lower --cohort"
                ) from error
            diverged = None
        # The error is gone, and with it all that referred to the networks but the cohort.
        cohort.replicas.clear()
        release_memory(self.prepared.device)
        index, news = state.go_back(cohort, *diverged) if diverged else state.split(cohort)
        state.save("running")
        yield Noted(news)
        return index

    def _train_cohort(self, cohort: Cohort) -> Iterator[Event]:
        """Trains a cohort through its rungs, under every seed.

        At each rung the seeds catch up with one another: the pruner decides by their mean.
        """
        index, live = cohort.index, cohort.live
        while cohort.rung <= self.config.rungs:
            rung = cohort.rung
            for replica in cohort.replicas:
                for progress in self._advance(cohort, replica):
                    yield from self._advanced(cohort, read=progress.stats is not None)
                    if self.stop.is_set() or self._keep_is_due():
                        self.state.keep(cohort)
                    if self.stop.is_set():
                        return
            scores = self._score(cohort)
            self._decide(cohort)
            cohort.rung = rung + 1 if live else self.config.rungs + 1
            self.state.keep(cohort, at_rung=True)
            self.state.tell_ended()
            self.state.save("running")
            step = self.prepared.rung_step(rung)
            yield Scored(index, rung, step, scores, self.state.throughput, self.state.leaderboard)
            if self.stop.is_set() or not live:
                return

    def _advanced(self, cohort: Cohort, *, read: bool) -> Iterator[Event]:
        """The news of some steps; whoever closes the search at them leaves a snapshot."""
        try:
            step = sum(cohort.steps.values())
            throughput, leaderboard = self.state.throughput, self.state.leaderboard
            yield Advanced(cohort.index, step, throughput, leaderboard, cohort.base_loss, read)
        except GeneratorExit:
            self.state.keep(cohort)
            raise

    def _advance(self, cohort: Cohort, replica: Replica) -> Iterator[Progress]:
        """Trains a cohort under one seed up to its rung, with a pause now and then."""
        setup, first = replica.setup, cohort.steps[replica.seed]
        last = setup.rung_step(cohort.rung)
        images, stop = setup.data.train, self.stop.is_set
        self.state.throughput.start()

        def begin(window: range) -> None:
            broadcast_object(Steps(replica.seed, window))

        for progress in train(replica.trainer, images, setup.config, first, last, stop, begin):
            taken = progress.step - cohort.steps[replica.seed]
            cohort.steps[replica.seed] = progress.step
            self.state.throughput.trained(taken)
            self.state.note_cost(taken, cohort.live)
            if progress.stats is not None:
                self._note_health(progress.stats, replica, cohort)
            yield progress
            self.state.throughput.start()

    def _keep_is_due(self) -> bool:
        return self.state.minutes_since_kept > self.config.snapshot_every

    def _score(self, cohort: Cohort) -> RungScores:
        """Scores base and heads, sets collapsed heads aside, reports the others to Optuna.

        Returns:
            The means over seeds.
        """
        self.state.throughput.start()
        rung, live = cohort.rung, cohort.live
        step = self.prepared.rung_step(rung)
        by_seed = {}
        for replica in cohort.replicas:
            broadcast_object(Score(replica.seed))
            by_seed[replica.seed] = self.prepared.scores(replica.trainer.teacher.network)
        for seed, under in by_seed.items():
            if not math.isfinite(under.base.effective_rank):  # its features are not
                raise DivergedError(seed, cohort.steps[seed])
        scores = mean_over_seeds(list(by_seed.values()))
        self.state.facts["dominant_share"] = scores.dominant_share
        if rung == 0:
            note_baseline(self.state.facts, "untrained", scores.base)
        for name, entry in list(live.items()):
            found = []
            for seed, under in by_seed.items():
                found.append(under.heads[name].by(self.prepared.rank_by))
                self.state.leaderboard.record_seed(entry, seed, rung, step, under, found[-1])
            self.state.leaderboard.record(entry, rung, step, step * self.config.batch_size, scores)
            entry.score = fmean(found)
            collapses = (self._collapse(name, under, entry) for under in by_seed.values())
            reason = next(filter(None, collapses), None)
            if rung and reason is not None:
                cohort.leave(name, "collapsed", reason)
        self.trials.report({head.trial: head.score for head in live.values()}, rung)
        self.state.throughput.scored()
        return scores

    def _collapse(self, name: str, scores: RungScores, entry: Entry) -> str | None:
        """Why a head counts as collapsed under a seed, None if it does not."""
        head, base = scores.heads[name], scores.base
        use = head.prototype_use
        return collapse_reason(
            head.effective_rank,
            self.prepared.plan.stages[entry.candidate.feature_index].dim,
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

    def _note_health(self, stats: StepStats, replica: Replica, cohort: Cohort) -> None:
        """Notes the losses; sets aside, under all seeds, heads that were not finite under one.

        Raises:
            DivergedError: the base itself did; its heads cannot go on either.
        """
        live = cohort.live
        for name, head in live.items():
            head.losses[replica.seed] = stats.owners[name].loss
        diverged = [name for name in live if name in stats.blamed]
        if not stats.base_sound or not (diverged or stats.owners[BASE].finite):
            raise DivergedError(replica.seed, cohort.steps[replica.seed])
        cohort.base_losses[replica.seed] = stats.owners[BASE].loss
        for name in diverged:
            cohort.leave(name, "failed", "loss or gradient not finite")


def resume_search(
    run: Run, inputs: InMemoryInputs = NO_INPUTS, flags: Mapping[str, Any] | None = None
) -> Search:
    """The search that goes on where an earlier process left this run.

    Args:
        given: what was given to it in Python.
        flags: settings that it goes on with otherwise than it was begun.

    Raises:
        UserError: it lacks something that was given, or something has changed since it began.
    """
    return Search(prepared_again(run, inputs, flags), run.path)


def prepared_again(
    run: Run, inputs: InMemoryInputs = NO_INPUTS, flags: Mapping[str, Any] | None = None
) -> SearchSetup:
    """All that this run needs to go on; raises as `resume_search`."""
    check_inputs(run.path, run.config, inputs, "resume")
    if run.config.get("fleet"):
        raise UserError(f"{run.path} was collected from workers: collect it again to go on with it")
    if run.facts.get("diverged"):
        raise UserError(f"{run.path}: its base diverged; search again with a lower --lr")
    config = resolve_here(flags or {}, run.path / "config.yaml")
    return prepare(config, inputs=inputs)

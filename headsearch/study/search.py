"""The search: trains cohorts, scores every rung, reports the scores to Optuna and prunes heads.

`Search` takes the setup that `setup.prepare` opened and checked, writes the run directory and runs.
It reports its progress to observers as events (`events.py`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from headsearch import torchrun
from headsearch.device import out_of_memory, release_memory
from headsearch.errors import UserError
from headsearch.evaluation.rung import raw_inputs
from headsearch.evaluation.scores import RungScores, mean_over_seeds
from headsearch.models.network import BASE
from headsearch.report.statistics.gains import write_gains
from headsearch.runs import same_settings
from headsearch.runs.directory import (
    create,
    hold,
    new_run_directory,
    read_config,
    run_label,
    undone_if_it_fails,
)
from headsearch.runs.incidents import DivergedError, incidents
from headsearch.runs.observers import Observers
from headsearch.runs.run import read_run
from headsearch.runs.snapshot import Snapshot, read_snapshot
from headsearch.runs.storage import STORAGE_ERRORS, check_storage, reason_of
from headsearch.study import recovery
from headsearch.study.cohort import Cohort, Replica
from headsearch.study.collapsed_heads import why_collapsed
from headsearch.study.events import Advanced, Event, Noted, Scored, Scoring
from headsearch.study.job_commands import End, Steps
from headsearch.study.lost_snapshots import settle_start
from headsearch.study.other_data_record import record_base, record_baselines
from headsearch.study.proposals import enqueue
from headsearch.study.run_facts import note_baseline
from headsearch.study.rung_decisions import Decided, leave_as_decided, leave_as_pruner_decides
from headsearch.study.setup import SearchSetup, check_one_process_can_prune, settings_of
from headsearch.study.state import SearchState
from headsearch.study.stopping import settle
from headsearch.study.trials import Trials
from headsearch.text import counted
from headsearch.training.distributed import RankLostError, broadcast_object
from headsearch.training.loop import window_from
from headsearch.training.meters import StepStats
from headsearch.training.provenance import check_same_data


class Search:
    """A search in its run directory: a loop over cohorts, and for each cohort a loop over rungs.

    Creating a `Search` writes the run directory with config.yaml and the Optuna study, or opens
    those of an earlier process.

    Args:
        prepared: the setup: data, base, search space and settings.
        directory: an existing run directory with the same settings: either claimed for this search
            (`runs.directory.claimed`), or left by an earlier process and to be resumed. By default
            a new one is made.
        start_over: whether a search whose snapshots are lost starts from its first step.
        decided: where rungs are decided elsewhere (`--prune-among all`): the heads that leave at
            each rung. The search stops at the first rung that is missing. By default the pruner
            decides.

    Attributes:
        run_directory: the directory that the search writes to.
        stop: set it to stop the search after the current step, with a snapshot.
        on_scoring: called many times while a rung is scored; a display sets it.
        waits_at: the rung at which it stopped because nothing is decided yet; None for none.

    Raises:
        UserError: the run directory exists, cannot be made, or cannot be resumed.
    """

    def __init__(
        self,
        prepared: SearchSetup,
        directory: Path | None = None,
        *,
        start_over: bool = False,
        decided: Decided | None = None,
    ) -> None:
        check_one_process_can_prune(prepared)
        self.prepared, self.decided = prepared, decided
        self.waits_at: int | None = None
        self.config = config = prepared.config
        self.stop = threading.Event()
        self.on_scoring: Callable[[Scoring], object] = lambda _: None
        self.run_directory = directory or new_run_directory(config.out, run_label(config))
        self._observers = Observers[Event]((), self.stop)
        settings = settings_of(prepared, self.run_directory)
        left = read_snapshot(self.run_directory)
        if config.storage is not None and left is None:
            check_storage(config.storage)
        new = create(self.run_directory, settings) if directory is None else None
        self._lock = hold(self.run_directory)
        with undone_if_it_fails(self.run_directory, new, self._lock):
            check_same_data(self.run_directory, read_config(self.run_directory), settings)
            begun = same_settings.check_same_settings(self.run_directory, settings)
            if directory is not None:
                settle_start(directory, begun, left, start_over=start_over)
            self._open(begun, left)

    def _open(self, settings: Mapping[str, Any], left: Snapshot | None) -> None:
        """Creates the study, or opens it and restores the state if there is a snapshot."""
        if left is not None:
            recorded = left.record["facts"].get("settings")
            same_settings.check_as_recorded(self.run_directory, recorded, settings)
        begun = left is not None  # a run that has a snapshot must have a study too
        self.trials = Trials(self.run_directory, self.config, settings, begun=begun)
        self.state = SearchState(self.run_directory, self.prepared, self.trials)
        self.state.facts["settings"] = same_settings.settings_that_decide(settings)
        if left is not None:
            self.state.restore(left)

    @property
    def notes(self) -> tuple[str, ...]:
        """The decisions made before the first step, and where a resumed search continues."""
        if self.state.left is None:
            return self.prepared.notes
        record = self.state.left.record
        steps = sum(record["steps"].values())
        where = f"cohort {record['cohort'] + 1}, step {steps}, before rung {record['rung']}"
        return (
            *self.prepared.notes,
            *incidents(self.state.facts),
            f"resuming from the last snapshot: {where}",
        )

    @property
    def complete(self) -> bool:
        """Whether the search has trained and scored all its cohorts."""
        return self.state.facts.get("status") == "complete"

    def run(self, *observers: Callable[[Event], None]) -> None:
        """Runs the search to its end, or until `stop` is set; it can be resumed from its snapshot.

        Args:
            observers: called with every event, in order. If one raises an error, the search stops
                as if `stop` were set, and the error is raised once the snapshot is written.

        Raises:
            UserError: the base diverges at every learning rate that was tried, or the run
                directory can no longer be written.
        """
        self._observers = Observers(observers, self.stop)
        self._run_cohorts()
        # A search that fails does not send this to the other processes of the job, which may be in
        # the middle of a step: when this process ends, torchrun ends the job.
        broadcast_object(End(self.run_directory))
        self._observers.raise_error()

    def _run_cohorts(self) -> None:
        try:
            status = "complete" if self._all_cohorts_end() else "interrupted"
        except BaseException as error:
            # When another process of a job ended, the run itself did not fail.
            itself = isinstance(error, Exception) and not isinstance(error, RankLostError)
            # An error while saving must not hide the one that ended the search.
            with suppress(UserError, *STORAGE_ERRORS):
                self._save("failed" if itself else "interrupted")
                write_gains(read_run(self.run_directory))
            raise
        else:
            self._save(status)
            write_gains(read_run(self.run_directory))
        finally:
            self._lock.release()

    def _all_cohorts_end(self) -> bool:
        """Trains all cohorts; returns False if the search is to stop before."""
        state = self.state
        try:
            self._save("running")
            if self.prepared.data.bank is not None and "raw_knn" not in state.facts["baselines"]:
                note_baseline(state.facts, "raw", raw_inputs(self.prepared.data))
            record_baselines(state.leaderboard, self.prepared)
            enqueue(self.trials.study, self.prepared.space, self.prepared.listing)
            index = state.first_cohort
            while index < len(state.sizes):
                index = self._run_cohort(index)
                if self.stop.is_set() or self.waits_at is not None:
                    return False
            return True
        except STORAGE_ERRORS as error:
            raise state.cannot_write(reason_of(error)) from error

    def _save(self, status: str) -> None:
        """Writes tables and facts.

        While the search is running, tables that cannot be written do not end it, because its
        snapshots hold the same; they are written again at the next rung.
        """
        try:
            self.state.save(status)
        except STORAGE_ERRORS as error:
            raise self.state.cannot_write(reason_of(error)) from error
        if self.state.unwritten and status == "running":
            self._observers.notify(Noted(f"{self.state.unwritten}; the search continues"))
        elif self.state.unwritten:
            raise self.state.cannot_write(self.state.unwritten)

    def _run_cohort(self, index: int) -> int:
        """Trains a cohort to its end, or until it diverges or runs out of memory.

        Returns:
            The index of the cohort to continue with.
        """
        state = self.state
        if not state.enter(index):
            return index + 1
        cohort = state.cohort(index)
        try:
            cohort.set_up(self.prepared.training, state.leaderboard.live(index), state.lr)
            state.load_into(cohort)
            self._train_cohort(cohort)
            return index + 1
        except DivergedError as error:
            diverged: tuple[int, int] | None = (error.seed, error.step)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            # With several processes, the others may have enough memory and would wait forever.
            if torchrun.count() > 1 or self.decided is not None:
                how = "several processes" if self.decided is None else "--prune-among all"
                raise UserError(
                    f"not enough memory for a cohort of {counted(len(cohort.live), 'head')}; with "
                    f"{how} it is not split: search again with a lower --cohort"
                ) from error
            diverged = None
        # In the handlers above, the error's traceback still refers to the networks. Here only the
        # cohort does, so their memory can be freed.
        cohort.replicas.clear()
        release_memory(self.prepared.training.device)
        if diverged is not None:
            index, note = recovery.go_back(state, cohort, *diverged)
        else:
            index, note = recovery.split(state, cohort)
        self._save("running")
        self._observers.notify(Noted(note))
        return index

    def _train_cohort(self, cohort: Cohort) -> None:
        """Trains a cohort through its rungs with every seed, or until the search is to stop.

        All seeds reach a rung before it is scored, because the pruner uses their mean score.
        """
        state = self.state
        self._leave_as_decided(cohort, cohort.rung - 1)
        if self.decided is not None and cohort.rung and not cohort.live:
            state.keep(cohort, at_rung=True)
            state.tell_ended()
            return
        while cohort.rung <= state.last_rung and self.waits_at is None:
            rung = cohort.rung
            for replica in cohort.replicas:
                if not self._train_to_rung(cohort, replica):
                    return
            scores = self._score(cohort)
            settled = settle(state, cohort) if self.config.stop == "settled" else None
            self._decide(cohort)
            cohort.rung = rung + 1 if cohort.live else self.config.rungs + 1
            state.keep(cohort, at_rung=True)
            state.tell_ended()  # after the snapshot: Optuna cannot take it back
            self._save("running")
            step = self.prepared.training.rung_step(rung)
            self._observers.notify(
                Scored(cohort.index, rung, step, scores, state.throughput, state.leaderboard)
            )
            if settled is not None:
                self._observers.notify(Noted(str(settled)))
            if self.stop.is_set() or not cohort.live:
                return

    def _train_to_rung(self, cohort: Cohort, replica: Replica) -> bool:
        """Trains a cohort with one seed up to its next rung.

        Returns:
            True if it reached the rung, False if the search is to stop before.
        """
        state, seed = self.state, replica.seed
        last = replica.setup.rung_step(cohort.rung)
        while cohort.steps[seed] < last:
            state.throughput.start()
            window = window_from(cohort.steps[seed], last)
            broadcast_object(Steps(seed, window))
            progress = cohort.train(replica, window, self.stop.is_set)
            taken = progress.step - cohort.steps[seed]
            cohort.steps[seed] = progress.step
            state.throughput.trained(taken, replica.loader.take_waited_s())
            state.note_cost(taken, cohort.live)
            if progress.stats is not None:
                self._note_stats(progress.stats, replica, cohort)
            self._observers.notify(
                Advanced(
                    cohort.index,
                    sum(cohort.steps.values()),
                    state.throughput,
                    state.leaderboard,
                    cohort.base_loss,
                    read=progress.stats is not None,
                )
            )
            if self.stop.is_set() or state.minutes_since_kept > self.config.snapshot_every:
                state.keep(cohort)
            if self.stop.is_set():
                return False
        replica.trainer.drop_graph()  # scoring needs memory, and heads may leave
        return True

    def _score(self, cohort: Cohort) -> RungScores:
        """Scores base and heads, sets collapsed heads aside, and reports the others to Optuna.

        Returns:
            The scores, averaged over seeds.

        Raises:
            DivergedError: the base's features are not finite.
        """
        state, rung, live = self.state, cohort.rung, cohort.live
        state.throughput.start()
        step = self.prepared.training.rung_step(rung)
        rank_by = self.prepared.rank_by
        by_seed = cohort.scores(
            rank_by,
            lambda progress: self.on_scoring(
                Scoring(cohort.index, rung, progress, state.leaderboard)
            ),
        )
        for seed, scores in by_seed.items():
            if not math.isfinite(scores.base.effective_rank):  # so its features are not finite
                raise DivergedError(seed, cohort.steps[seed])
        mean = mean_over_seeds(list(by_seed.values()))
        state.facts["dominant_share"] = mean.dominant_share
        if rung == 0:
            note_baseline(state.facts, "untrained", mean.base)
        record_base(state.leaderboard, cohort.index, rung, mean)
        for name, entry in list(live.items()):
            ranked_by = {
                seed: scores.heads[name].ranking_score(rank_by) for seed, scores in by_seed.items()
            }
            for seed, scores in by_seed.items():
                state.leaderboard.record_seed(name, seed, rung, step, scores, ranked_by[seed])
            images = step * self.prepared.batch
            state.leaderboard.record(name, rung, step, images, mean, fmean(ranked_by.values()))
            reasons = [why_collapsed(entry, each, self.prepared) for each in by_seed.values()]
            reason = next(filter(None, reasons), None)
            # At rung 0 the network is untrained, so a low rank says nothing about training.
            if rung and reason is not None:
                cohort.leave(name, "collapsed", reason)
        self.trials.report({head.trial: head.score for head in live.values()}, rung)
        state.throughput.scored()
        return mean

    def _decide(self, cohort: Cohort) -> None:
        """Lets the pruner decide which heads leave at this rung; at the last, all are complete."""
        rung, live = cohort.rung, cohort.live
        if rung == self.state.last_rung:
            for name in list(live):
                cohort.leave(name, "complete", "")
        elif rung > 0 and self.decided is None:
            leave_as_pruner_decides(cohort, self.trials, self.config.pruner)
        elif rung > 0:
            self._leave_as_decided(cohort, rung)

    def _leave_as_decided(self, cohort: Cohort, rung: int) -> None:
        """Lets the heads leave that were pruned elsewhere at a rung, or waits there."""
        decided = self.decided if 0 < rung < self.config.rungs else None
        if decided is not None and not leave_as_decided(cohort, rung, decided):
            self.waits_at = rung

    def _note_stats(self, stats: StepStats, replica: Replica, cohort: Cohort) -> None:
        """Records the losses read with one seed, and ends heads that diverged, for all seeds.

        Raises:
            DivergedError: the base itself diverged, so its heads cannot continue either.
        """
        live = cohort.live
        for name, head in live.items():
            head.losses[replica.seed] = stats.owners[name].loss
        diverged = [name for name in live if name in stats.blamed]
        # With joint coupling a diverged head makes the base's gradients non-finite too. The base
        # is to blame only if its own features are not finite, or if no head is to blame.
        if not stats.base_sound or not (diverged or stats.owners[BASE].finite):
            raise DivergedError(replica.seed, cohort.steps[replica.seed])
        cohort.base_losses[replica.seed] = stats.owners[BASE].loss
        for name in diverged:
            cohort.leave(name, "failed", "loss or gradient not finite")

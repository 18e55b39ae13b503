"""The state of a search besides its networks: tables, clocks, facts and the current cohort.

All of it is kept in snapshots, so that an interrupted search can be resumed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from headsearch.device import out_of_memory
from headsearch.errors import UserError
from headsearch.models.head_batches import head_batch_size
from headsearch.runs.incidents import Settled, current_learning_rate
from headsearch.runs.snapshot import Snapshot, write_snapshot
from headsearch.runs.throughput import Throughput
from headsearch.study.cohort import Cohort
from headsearch.study.leaderboard import Entry, Leaderboard
from headsearch.study.other_data_record import check_same_other_data, dense_facts, task_facts
from headsearch.study.proposals import ask_for_cohort
from headsearch.study.run_facts import first_facts
from headsearch.study.setup import SearchSetup
from headsearch.study.trials import Trials


class SearchState:
    """Tables, clocks and facts of a search, and its current cohort.

    Args:
        run_directory: where tables and snapshots are written.
        prepared: the setup of the search.
        trials: the trials of the Optuna study.

    Attributes:
        leaderboard: state and scores of all candidates.
        throughput: speed, time spent and time left.
        facts: what the run records about itself.
        sizes: the number of candidates in each cohort.
        unwritten: why the tables could not be written the last time; empty if they were.
        left: the snapshot to resume from, if any. Its tensors are dropped once they are loaded.
    """

    def __init__(self, run_directory: Path, prepared: SearchSetup, trials: Trials) -> None:
        config = prepared.config
        self.run_directory, self.prepared, self.trials = run_directory, prepared, trials
        self.leaderboard = Leaderboard()
        self.sizes = prepared.cohort_sizes
        steps = prepared.training.steps * config.seeds
        self.throughput = Throughput(prepared.batch, steps, config.rungs, len(self.sizes))
        self.facts = first_facts(prepared)
        self.facts["dense"] = dense_facts(prepared)
        self.facts["tasks"] = task_facts(prepared)
        self.unwritten = ""
        self.left: Snapshot | None = None
        self._kept_at = time.monotonic()

    @property
    def lr(self) -> float:
        """The current peak learning rate; it is lowered when the base diverges."""
        return current_learning_rate(self.facts, self.prepared.config.peak_lr)

    @property
    def first_cohort(self) -> int:
        """The index of the cohort to start with."""
        return int(self.left.record["cohort"]) if self.left is not None else 0

    @property
    def last_rung(self) -> int:
        """The rung at which the heads of every cohort end."""
        return self.facts["rung_count"]

    def stop_at(self, settled: Settled) -> None:
        """Makes an earlier rung the last one, in this cohort and all later ones."""
        self.facts["settled"] = asdict(settled)
        self.facts["rung_count"] = settled.rung
        self._shorten()

    def _shorten(self) -> None:
        """Leaves out of the time left what is not going to be trained."""
        if settled := self.facts["settled"]:
            steps = settled["step"] * self.prepared.config.seeds
            self.throughput.shorten(steps, settled["rung"])

    # cohorts

    def enter(self, index: int) -> bool:
        """Asks Optuna for the candidates of a cohort and adds them to the leaderboard.

        Returns:
            Whether the cohort has any candidates.
        """
        study, space, size = self.trials.study, self.prepared.space, self.sizes[index]
        config, known = self.prepared.config, self.leaderboard.cohorts
        proposals = ask_for_cohort(study, space, config, index, size, known)
        if len(proposals) < size:  # the space is exhausted: this cohort is the last
            self.sizes[index:] = [len(proposals)] if proposals else []
            self.throughput.cohorts = len(self.sizes)
        for proposal in proposals:
            if proposal.candidate.name not in self.leaderboard.entries:
                self.leaderboard.enter(proposal.candidate, proposal.trial.number, index)
        self.trials.group(self.leaderboard.cohorts)
        return bool(proposals)

    def cohort(self, index: int) -> Cohort:
        """A cohort without its networks: at its first step, or where the snapshot left it."""
        if self.left is None or self.left.record["cohort"] != index:
            return self.new_cohort(index)
        record = self.left.record
        steps = {int(seed): done for seed, done in record["steps"].items()}
        losses = {int(seed): loss for seed, loss in record.get("base_losses", {}).items()}
        return Cohort(index, record["rung"], steps, base_losses=losses)

    def new_cohort(self, index: int) -> Cohort:
        """A cohort before its first step, without its networks."""
        first = self.prepared.config.seed
        return Cohort(index, 0, dict.fromkeys(range(first, first + self.prepared.config.seeds), 0))

    def load_into(self, cohort: Cohort) -> None:
        """Loads the snapshot's tensors into a cohort's networks, if the snapshot is of it."""
        if self.left is None or self.left.record["cohort"] != cohort.index:
            return
        if self.left.tensors:  # none: the cohort starts from its first weights
            cohort.load_state(self.left.tensors)
        self.left = replace(self.left, tensors={})

    # what is written

    @property
    def minutes_since_kept(self) -> float:
        return (time.monotonic() - self._kept_at) / 60

    def keep(self, cohort: Cohort, *, at_rung: bool = False) -> None:
        """Writes a snapshot of a cohort and of the state of the search.

        Args:
            cohort: the cohort in training.
            at_rung: whether to keep it as the one that the cohort goes back to if it diverges.
        """
        record = self._record(cohort, at_rung=at_rung)
        self._write(Snapshot(cohort.state(), record), at_rung=at_rung)

    def start_from(self, tensors: Mapping[str, Tensor], cohort: Cohort) -> None:
        """Makes the search continue with this cohort, and writes a snapshot that says so.

        Args:
            tensors: the state of the cohort's networks; empty to start from the first weights.
            cohort: the cohort.
        """
        self.left = Snapshot(tensors, self._record(cohort, at_rung=True))
        self._write(self.left)

    def _record(self, cohort: Cohort, *, at_rung: bool) -> dict[str, object]:
        return {
            "cohort": cohort.index,
            "rung": cohort.rung,
            "steps": cohort.steps,
            "base_losses": cohort.base_losses,
            "at_rung": at_rung,
            "sizes": self.sizes,
            "ledger": self.leaderboard.record_of(),
            "pace": self.throughput.record_of(),
            "facts": self.facts,
        }

    def _write(self, snapshot: Snapshot, *, at_rung: bool = False) -> None:
        try:
            write_snapshot(self.run_directory, snapshot, at_rung=at_rung)
        except OSError as error:
            raise self.cannot_write(error.strerror or str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise self.cannot_write("not enough memory for the copy of a snapshot") from error
        self._kept_at = time.monotonic()

    def save(self, status: str) -> None:
        """Writes the facts as they are now, and the tables unless they cannot be: `unwritten`."""
        self.facts["status"] = status
        self.facts.update(self.throughput.facts())
        self.facts["baselines"].update(self.leaderboard.base_of_the_first())
        self.unwritten = ""
        try:
            self.leaderboard.write(self.run_directory)
        except OSError as error:
            self.unwritten = f"the tables cannot be written: {error.strerror or error}"
        self.trials.note(self.facts)

    def tell_ended(self) -> None:
        """Reports to Optuna how heads have ended.

        Optuna cannot take that back, so call it after the snapshot of the rung at which they ended
        is written. If the process dies between the two, the process that resumes reports it.
        """
        self.trials.tell(self.leaderboard.entries.values())

    def note_cost(self, steps: int, live: Mapping[str, Entry]) -> None:
        """Adds the cost of some steps, in units of training the base alone for the whole run."""
        base_gflops = self.prepared.plan.gflops
        batch = self.prepared.batch
        seen = head_batch_size(self.prepared.config.images_per_head, batch, len(live))
        heads = sum(head.candidate.gflops for head in live.values()) / base_gflops * seen / batch
        self.facts["cost_base_equivalents"] += (1 + heads) * steps / self.prepared.training.steps
        self.facts["solo_equivalents"] = self.prepared.config.seeds * sum(
            1 + entry.candidate.gflops / base_gflops for entry in self.leaderboard.entries.values()
        )

    def cannot_write(self, reason: str) -> UserError:
        """The error to raise when the run directory or the study cannot be written."""
        if not self.run_directory.is_dir():
            return UserError(
                f"{self.run_directory}: the run directory was deleted while the search ran, and "
                "its results with it: search again"
            )
        return UserError(
            f"{self.run_directory}: cannot write: {reason.splitlines()[0]}; what was written "
            f"before is kept: fix the cause, then headsearch resume {self.run_directory}"
        )

    def restore(self, left: Snapshot) -> None:
        """Restores the state from a snapshot, and reports to the study what it lacks.

        Raises:
            UserError: the study or the data are not those of the snapshot.
        """
        candidates = self.trials.candidates(self.prepared.space)
        unknown_trials = [
            name
            for name, entry in left.record["ledger"]["standings"].items()
            if entry["trial"] not in candidates
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
                    "now: the data has changed; search again"
                )
        check_same_other_data(facts, self.prepared, str(self.run_directory))
        self.left = left
        self.leaderboard.restore(left.record["ledger"], candidates)
        self.throughput.restore(left.record["pace"])
        self.facts |= facts
        self.sizes = list(left.record.get("sizes", self.sizes))
        self.throughput.cohorts = len(self.sizes)
        self._shorten()
        self.trials.group(self.leaderboard.cohorts)
        # Between rungs, a head that has ended may yet be taken back, if the base diverges.
        if left.record.get("at_rung", True):
            self.tell_ended()

"""How far a search is, beside the networks that train: kept in snapshots, and gone back on.

A base that diverges goes back to the last rung with a lower learning rate, and a cohort that does
not fit into memory begins anew in two. Both are decided here, and by nothing but what the snapshots
hold, so that a search that is interrupted around them comes to the same end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from headsearch.device import out_of_memory
from headsearch.errors import UserError
from headsearch.models.head_batches import head_batch_size
from headsearch.runs.incidents import (
    LOWERED_TO,
    LOWERINGS,
    TOO_LARGE,
    CohortSplit,
    LearningRateDrop,
    current_learning_rate,
)
from headsearch.runs.snapshot import Snapshot, read_rung_snapshot, write_snapshot
from headsearch.runs.throughput import Throughput
from headsearch.study.cohort import Cohort
from headsearch.study.leaderboard import Entry, Leaderboard
from headsearch.study.proposals import ask_for_cohort
from headsearch.study.recovery import _shared_out
from headsearch.study.run_facts import first_facts
from headsearch.study.setup import SearchSetup
from headsearch.study.trials import Trials


class SearchState:
    """The tables, clocks and facts of a search, and which cohort it is at.

    Args:
        run_directory: where tables and snapshots go.
        prepared: what is searched.
        trials: of the study.

    Attributes:
        ledger: the tables.
        pace: the clocks.
        facts: what the run says about itself.
        sizes: how many candidates each cohort has.
        left: the snapshot that it goes on from, if any; its tensors are gone once they are loaded.
    """

    def __init__(self, run_directory: Path, prepared: SearchSetup, trials: Trials) -> None:
        config = prepared.config
        self.run_directory, self.prepared, self.trials = run_directory, prepared, trials
        self.leaderboard = Leaderboard()
        self.sizes = prepared.cohort_sizes
        steps = prepared.steps * config.seeds
        self.throughput = Throughput(config.batch_size, steps, config.rungs, len(self.sizes))
        self.facts = first_facts(prepared)
        self.left: Snapshot | None = None
        self._kept_at = time.monotonic()

    @property
    def lr(self) -> float:
        """The peak learning rate, as low as it has come."""
        return current_learning_rate(self.facts, self.prepared.config.lr)

    @property
    def begun(self) -> int:
        """The cohort that it is at."""
        return int(self.left.record["cohort"]) if self.left is not None else 0

    # cohorts

    def enter(self, index: int) -> bool:
        """Asks for the candidates of a cohort and gives each its row; whether there are any."""
        study, space, size = self.trials.study, self.prepared.space, self.sizes[index]
        config, known = self.prepared.config, self.leaderboard.cohorts
        found = ask_for_cohort(study, space, config, index, size, known)
        if len(found) < size:  # no more come
            self.sizes[index:] = [len(found)] if found else []
            self.throughput.cohorts = len(self.sizes)
        for proposal in found:
            if proposal.candidate.name not in self.leaderboard.entries:
                self.leaderboard.enter(proposal.candidate, proposal.trial.number, index)
        self.trials.group(self.leaderboard.cohorts)
        return bool(found)

    def cohort(self, index: int) -> Cohort:
        """A cohort without networks, before its first step or where the snapshot left it."""
        if self.left is None or self.left.record["cohort"] != index:
            return self._before_its_first_step(index)
        record = self.left.record
        steps = {int(seed): done for seed, done in record["steps"].items()}
        losses = {int(seed): loss for seed, loss in record.get("base_losses", {}).items()}
        return Cohort(index, record["rung"], steps, base_losses=losses)

    def _before_its_first_step(self, index: int) -> Cohort:
        first = self.prepared.config.seed
        return Cohort(index, 0, dict.fromkeys(range(first, first + self.prepared.config.seeds), 0))

    def load_into(self, cohort: Cohort) -> None:
        """Gives the networks of a cohort the weights that the snapshot left it with, if any."""
        if self.left is None or self.left.record["cohort"] != cohort.index:
            return
        if self.left.tensors:
            cohort.load_state(self.left.tensors)
        self.left = replace(self.left, tensors={})

    # what is written

    @property
    def minutes_since_kept(self) -> float:
        return (time.monotonic() - self._kept_at) / 60

    def keep(self, cohort: Cohort, *, at_rung: bool = False) -> None:
        """Writes a snapshot of a cohort as it stands, and of all that came before it.

        Args:
            at_rung: whether the cohort may go back to it, and heads that have ended stay so.
        """
        record = self._record(cohort, at_rung=at_rung)
        self._write(Snapshot(cohort.state(), record), to_go_back_to=at_rung)

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

    def _write(self, snapshot: Snapshot, *, to_go_back_to: bool = False) -> None:
        try:
            write_snapshot(self.run_directory, snapshot, at_rung=to_go_back_to)
        except OSError as error:
            raise self.cannot_write(error.strerror or str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise self.cannot_write("not enough memory for the copy of a snapshot") from error
        self._kept_at = time.monotonic()

    def save(self, status: str) -> None:
        """Writes the tables and the facts as they are now."""
        self.facts.update(status=status, **self.throughput.facts())
        self.facts["baselines"].update(self.leaderboard.base_of_the_first())
        try:
            self.leaderboard.write(self.run_directory)
        except OSError as error:
            raise self.cannot_write(error.strerror or str(error)) from error
        self.trials.note(self.facts)

    def tell_ended(self) -> None:
        """Tells Optuna how heads have ended.

        That cannot be taken back, so it comes after the snapshot of the rung by which they have;
        whatever happens between the two, the next process tells it.
        """
        self.trials.tell(self.leaderboard.entries.values())

    def note_cost(self, steps: int, live: Mapping[str, Entry]) -> None:
        """Adds up what training cost, in units of the base's own training of the same length."""
        whole = self.prepared.plan.gflops
        batch = self.prepared.batch
        shown = head_batch_size(self.prepared.config.images_per_head, batch, len(live))
        heads = sum(head.candidate.gflops for head in live.values()) / whole * shown / batch
        self.facts["cost_base_equivalents"] += (1 + heads) * steps / self.prepared.steps
        self.facts["solo_equivalents"] = self.prepared.config.seeds * sum(
            1 + entry.candidate.gflops / whole for entry in self.leaderboard.entries.values()
        )

    def cannot_write(self, reason: str) -> UserError:
        return UserError(
            f"{self.run_directory}: cannot write: {reason.splitlines()[0]}; what was written "
            f"before stands: mend that, then headsearch resume {self.run_directory}"
        )

    # going back

    def restore(self, left: Snapshot) -> None:
        """Becomes what it was when a snapshot was taken, and brings the study up to it.

        Raises:
            UserError: study or data are not those that it was taken with.
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
                    "now: the data have changed; search again"
                )
        self.left = left
        self.leaderboard.restore(left.record["ledger"], candidates)
        self.throughput.restore(left.record["pace"])
        self.facts |= facts
        self.sizes = list(left.record.get("sizes", self.sizes))
        self.throughput.cohorts = len(self.sizes)
        self.trials.group(self.leaderboard.cohorts)
        if left.record.get("at_rung", True):
            self.tell_ended()

    def go_back(self, cohort: Cohort, seed: int, step: int) -> tuple[int, str]:
        """Takes a cohort whose base diverged back, with a lower learning rate for all that follows.

        Back to the last rung, under all seeds; where it diverges again before the next one, to the
        first weights: what the last rung left may have been beyond help.

        Args:
            seed: under which it diverged.
            step: how many steps were sound.

        Returns:
            The cohort to go on with, and what happened.

        Raises:
            UserError: it was lowered often enough, or no learning rate can help.
        """
        lowered, index = self.facts["lowered"], cohort.index
        if step == 0 or len(lowered) == LOWERINGS:
            raise self._given_up(index, step)
        lr, again = LOWERED_TO * self.lr, self.facts["went_back"] == [index, cohort.rung]
        kept = read_rung_snapshot(self.run_directory)
        if kept is not None:
            kept.record["pace"]["wall_s"] = self.throughput.record_of()[
                "wall_s"
            ]  # goes on all the same
            self.restore(kept)
        anew = kept is None or (again and cohort.rung > 1)
        back_to = 0 if kept is None or anew else kept.record["steps"][str(seed)]
        lowering = LearningRateDrop(index, cohort.rung, seed, step, back_to, lr)
        self.facts["lowered"] = [*lowered, asdict(lowering)]
        self.facts["went_back"] = [index, cohort.rung]
        if kept is None or anew:
            index = self._begin_anew(cohort if kept is None else self.cohort(index), parts=1)
        else:
            record = self._record(self.cohort(index), at_rung=True)
            self.left = Snapshot(kept.tensors, record)
            self._write(self.left)
        return index, str(lowering)

    def _given_up(self, index: int, step: int) -> UserError:
        """Ends the heads of a cohort whose base diverged, and says what may help."""
        for head in self.leaderboard.live(index):
            head.state, head.reason = "failed", "the base diverged"
        self.facts["diverged"] = True
        self.tell_ended()
        if step == 0:
            return UserError(
                "the base diverged in its first step: its features or gradients are not finite "
                "before any update, which no lower --lr mends; look at its first weights and at "
                "the images"
            )
        return UserError(
            f"the base diverged at step {step}: its features or gradients are not finite, with "
            f"the learning rate lowered {LOWERINGS} times already; try a lower --lr than "
            f"{self.lr:g}"
        )

    def split(self, cohort: Cohort) -> tuple[int, str]:
        """Lets a cohort that did not fit into memory begin anew in two; a head alone is set aside.

        Returns:
            The cohort to go on with, and what happened.
        """
        live = self.leaderboard.live(cohort.index)
        if not live:
            raise UserError(
                "memory does not suffice for the base alone: a smaller --batch-size needs less"
            )
        if len(live) > 1:
            parts = _shared_out(live, 2)
            split = CohortSplit(cohort.index, tuple(map(len, parts)))
            self.facts["splits"] = [*self.facts["splits"], asdict(split)]
            self.facts["went_back"] = None
            return self._begin_anew(cohort, parts=2), str(split)
        for head in live:
            head.state, head.reason = "failed", TOO_LARGE
        after = self._before_its_first_step(cohort.index + 1)
        self._write(Snapshot({}, self._record(after, at_rung=True)))
        self.tell_ended()
        names = ", ".join(head.candidate.name for head in live)
        return after.index, (
            f"{names} does not fit into memory even alone with the base: set aside; a smaller "
            "--batch-size needs less"
        )

    def _begin_anew(self, cohort: Cohort, parts: int) -> int:
        """Lets the live heads of a cohort train from the first weights again, in so many cohorts.

        Those that have ended stay as they are, a cohort of their own. Later cohorts move up.

        Returns:
            The number of the first of the new cohorts.
        """
        index, live = cohort.index, self.leaderboard.live(cohort.index)
        ended = self.sizes[index] - len(live)
        shared = _shared_out(live, parts)
        first = index + (ended > 0)
        new = [ended] * (ended > 0) + [len(part) for part in shared]
        self.sizes[index : index + 1] = new
        later = len(new) - 1
        for entry in self.leaderboard.entries.values():
            if entry.cohort > index:
                entry.cohort += later
        for befell in (*self.facts["lowered"], *self.facts["splits"]):
            if befell["cohort"] > index:
                befell["cohort"] += later
        for number, part in enumerate(shared, first):
            for entry in part:
                self.leaderboard.begin_anew(entry, number)
        self.throughput.cohorts = len(self.sizes)
        self.throughput.undone(sum(cohort.steps.values()), cohort.rung)
        self.left = Snapshot({}, self._record(self._before_its_first_step(first), at_rung=True))
        self._write(self.left)
        self.trials.group(self.leaderboard.cohorts)
        self.tell_ended()
        return first

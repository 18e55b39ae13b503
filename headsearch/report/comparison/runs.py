"""The runs of a comparison: their letters, and whether they can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from headsearch.errors import UserError
from headsearch.report.statistics.ranking import last_rung, rank_by
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked

MOST_RUNS = len(ascii_uppercase)


@dataclass(frozen=True)
class Compared:
    """A run of a comparison.

    Attributes:
        letter: what tables and sentences call it.
        run: the run.
        ranking: its heads, best first.
    """

    letter: str
    run: Run
    ranking: tuple[Ranked, ...]

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.run.path.absolute().name

    @property
    def base(self) -> str:
        """The name of its base."""
        return str(self.run.facts.get("base", {}).get("name", self.run.config.get("base")))

    @property
    def rank_by(self) -> str:
        """What it ranks by."""
        return rank_by(self.run)

    @property
    def complete(self) -> bool:
        """Whether it ended, as far as that is known: runs are published without their study."""
        return self.run.facts.get("status", "complete") == "complete"

    @property
    def state(self) -> str:
        """How it stands, in words."""
        status = self.run.facts.get("status", "status unknown")
        if status == "complete":
            return status
        rungs = self.run.facts.get("rung_count") or self.run.config.get("rungs")
        return f"{status}, rung {last_rung(self.run)} of {rungs or '?'}"

    @property
    def contest(self) -> list[Ranked]:
        """The heads that may win: neither controls nor collapsed or failed, best first."""
        return [row for row in self.ranking if row.healthy and not row.control]


def compared(runs: Sequence[Run]) -> tuple[Compared, ...]:
    """The runs with their letters, in the order given.

    Raises:
        UserError: there are fewer than two or too many, one is there twice, or one has no scores.
    """
    if len(runs) < 2:
        raise UserError("a comparison needs two runs or more: headsearch compare RUN RUN")
    if len(runs) > MOST_RUNS:
        raise UserError(f"{len(runs)} runs are too many for one page: at most {MOST_RUNS}")
    seen: set[Path] = set()
    for run in runs:
        if run.path.resolve() in seen:
            raise UserError(f"{run.path}: named twice; a run cannot be compared with itself")
        seen.add(run.path.resolve())
        if run.ranking["score"].isna().all():
            raise UserError(
                f"{run.path}: no head has a score yet, so there is nothing to compare; leave this "
                "run out, or wait until it has scored a rung"
            )
    letters = zip(ascii_uppercase, runs, strict=False)
    return tuple(Compared(letter, run, tuple(ranked(run.ranking))) for letter, run in letters)

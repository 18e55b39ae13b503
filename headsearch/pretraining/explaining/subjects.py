"""Which bases `explain` compares: the solo runs that are there, and what is missing of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headsearch.errors import UserError, unknown
from headsearch.pretraining.run import HEAD_WEIGHTS, WEIGHTS
from headsearch.report.findings import UNTRAINED
from headsearch.report.statistics.gains import verified
from headsearch.runs.run import Run
from headsearch.runs.tables import CONTROL_FAMILIES, NO_HEAD, ranked
from headsearch.text import for_file_name, listing

Role = Literal["untrained", "none", "control", "head"]


@dataclass(frozen=True)
class Subject:
    """A base that is compared.

    Attributes:
        name: the head it was trained with, `none`, or `untrained`.
        role: what it is for.
        seed: its seed.
        folder: the directory of its solo run; None for an untrained one.
    """

    name: str
    role: Role
    seed: int
    folder: Path | None

    @property
    def label(self) -> str:
        """Its name among files."""
        return f"{for_file_name(self.name)}-seed{self.seed}"

    @property
    def has_head(self) -> bool:
        """Whether its head was kept."""
        return self.folder is not None and (self.folder / HEAD_WEIGHTS).is_file()

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


@dataclass(frozen=True)
class Comparison:
    """The bases of a comparison.

    Attributes:
        subjects: all of them: untrained ones, then seed by seed no head, controls, and heads.
        heads: the heads in question.
        own: the name of the base's own kind of head, or of `identity` where the base has none; None
            if it was not run.
        seeds: the seeds under which every head, `own` and no head were run.
        notes: what is missing and how to get it, one line each.
    """

    subjects: tuple[Subject, ...]
    heads: tuple[str, ...]
    own: str | None
    seeds: tuple[int, ...]
    notes: tuple[str, ...]


def comparison(run: Run, head: str | None = None, top: int = 3) -> Comparison:
    """The bases to compare.

    Args:
        run: a search with solo runs.
        head: the one head in question; by default the best of the verified ones.
        top: how many of these.

    Raises:
        UserError: there are no solo runs with and without a head, or none of this head.
    """
    kept = _kept(run)
    names = {subject.name for subject in kept}
    order = solo.order if (solo := verified(run)) is not None else ()
    heads = [name for name in order if name in names]
    if NO_HEAD not in names or not heads:
        raise UserError(
            f"{run.path}: no solo runs to compare, with a head and without one; "
            f"`{_verify(run, head, top, 2)}` makes them"
        )
    if head is not None and head not in heads:
        if head not in set(run.ranking["candidate"]):
            raise unknown("head", head, heads)
        raise UserError(
            f"{run.path}: no solo run of {head}; `{_verify(run, head, top, 2)}` makes it, or name "
            f"another --head ({listing(heads)})"
        )
    chosen = tuple([head] if head is not None else heads[:top])
    own = _own(kept)
    needed = (NO_HEAD, *chosen, *([own] if own is not None else []))
    by_name = {n: {subject.seed for subject in kept if subject.name == n} for n in needed}
    seeds = tuple(sorted(set.intersection(*by_name.values())))
    if not seeds:
        raise UserError(
            f"{run.path}: {listing(list(needed))} have no seed in common; "
            f"`{_verify(run, head, top, 2)}` adds the runs that are missing"
        )
    controls = [s for s in kept if s.role == "control" and s.seed in seeds]
    complete = {name for name in {s.name for s in controls}
                if {s.seed for s in controls if s.name == name} == set(seeds)}  # fmt: skip
    shown = [NO_HEAD, *sorted(complete, key=lambda name: name != own), *chosen]
    trained = sorted(
        (s for s in kept if s.seed in seeds and s.name in shown),
        key=lambda s: (s.seed, shown.index(s.name)),
    )
    untrained = [Subject(UNTRAINED, "untrained", seed, None) for seed in seeds]
    notes = tuple(_notes(run, chosen, own, seeds, trained, _verify(run, head, top, 2)))
    return Comparison((*untrained, *trained), chosen, own, seeds, notes)


def _kept(run: Run) -> list[Subject]:
    """The solo runs that have ended and whose weights are there, seed by seed."""
    found = []
    columns = (run.solo[name].tolist() for name in ("candidate", "family", "seed"))
    for name, family, seed in zip(*columns, strict=True):
        folder = run.path / "solo" / f"{for_file_name(name)}-seed{seed}"
        role: Role = "head"
        if family in (NO_HEAD, *CONTROL_FAMILIES):
            role = "none" if family == NO_HEAD else "control"
        if (folder / WEIGHTS).is_file():
            found.append(Subject(name, role, int(seed), folder))
    return found


def _own(kept: Sequence[Subject]) -> str | None:
    """The control that stands for any head: the base's own kind, else `identity`."""
    names = [subject.name for subject in kept if subject.role == "control"]
    return next((name for name in names if name.startswith("own")), next(iter(names), None))


def _verify(run: Run, head: str | None, top: int, seeds: int) -> str:
    """The command that makes the solo runs."""
    places = [row.candidate for row in ranked(run.ranking) if row.healthy and not row.control]
    if head in places:
        top = places.index(head) + 1
    return f"headsearch verify {run.path} --top {top} --seeds {seeds}"


def _notes(
    run: Run,
    heads: Sequence[str],
    own: str | None,
    seeds: Sequence[int],
    trained: Sequence[Subject],
    command: str,
) -> list[str]:
    """What is missing, and what cannot be said without it."""
    notes = []
    if len(seeds) == 1:
        notes.append(
            "one seed: differences are shown, but nothing can be said of them, because what two "
            f"seeds differ by is not known; `{command}` adds a second"
        )
    if own is None:
        notes.append(
            "no run with the base's own kind of head: no difference can be ascribed to the kind of "
            f"head; `{command}` adds it"
        )
    without = [str(s) for s in trained if s.name in heads and not s.has_head]
    if without:
        notes.append(
            f"{listing(without)}: the head was not kept, as by earlier versions, so the analysis "
            f"toward the head is left out; remove {run.path / 'solo'} and verify again to have it"
        )
    return notes

"""The output of `headsearch space`: the candidates of a search space on a base, and their cost."""

from __future__ import annotations

from rich.console import Console

from headsearch.models.space import Candidate, ResolvedSpace
from headsearch.report import Table
from headsearch.report.console import print_table
from headsearch.runs.console import say
from headsearch.text import counted


def _remark(space: ResolvedSpace, candidate: Candidate) -> str:
    """What sets a candidate apart. On images all maps of a run have one size."""
    _, (rows, _) = space.base.stages[candidate.feature_index]
    fixed = rows == 1 and candidate.made_by.one_length(candidate.parameters)
    remarks = ["control"] * candidate.control + ["one length only"] * fixed
    return ", ".join(remarks)


def print_space(console: Console, space: ResolvedSpace, limit: int) -> None:
    """Prints the candidates of a space with their cost, or the size of a space too large to list.

    Args:
        console: where to print.
        space: the space on a base.
        limit: if the space has more points than this, only its controls are listed.
    """
    say(console, str(space.base))
    for note in space.notes:
        say(console, f"· {note}")
    listing = space.enumerate(limit)
    if listing is None:
        size = f"{space.size:,}" if space.size is not None else "infinitely many"
        say(
            console,
            f"{space.space.source}: {size} points, more than --limit {limit}: "
            "a run samples from them",
        )
    candidates = listing.candidates if listing is not None else space.controls
    print_table(
        console,
        Table(
            ["Candidate", "Family", "Params (M)", "of base", "GFLOPs", "of base", ""],
            [False, False, True, True, True, True, False],
            [
                [
                    candidate.name,
                    candidate.family,
                    f"{candidate.params_m:.2f}",
                    f"{100 * candidate.params_m / space.base.params_m:.0f} %",
                    f"{candidate.gflops:.3f}",
                    f"{100 * candidate.gflops / space.base.gflops:.0f} %",
                    _remark(space, candidate),
                ]
                for candidate in candidates
            ],
            ["of base", "Params (M)", "Family", "GFLOPs"],
        ),
    )
    if listing is None:
        return
    total = sum(candidate.gflops for candidate in listing.candidates) / space.base.gflops
    count = counted(len(listing.candidates), "candidate")
    say(console, f"{count}; together they cost {total:.1f} × the base")
    for written, name in listing.merged:
        say(console, f"· {written} is the same head as {name} on this base")
    for candidate, reason in listing.excluded:
        say(console, f"· {candidate.name} is left out: {reason}")

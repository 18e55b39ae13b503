"""How a search goes on after its base diverged, or after a cohort did not fit into memory.

A base that diverges goes back to the last rung with a lower learning rate. A cohort that does not
fit into memory starts anew as two. Both are decided by what the snapshots hold and by nothing else,
so that a search that is interrupted around them comes to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate

from headsearch.errors import UserError
from headsearch.runs.incidents import (
    LOWERED_TO,
    LOWERINGS,
    TOO_LARGE,
    CohortSplit,
    LearningRateDrop,
)
from headsearch.runs.snapshot import read_rung_snapshot
from headsearch.study.cohort import Cohort
from headsearch.study.leaderboard import Entry
from headsearch.study.proposals import cohort_sizes
from headsearch.study.state import SearchState


def go_back(state: SearchState, cohort: Cohort, seed: int, step: int) -> tuple[int, str]:
    """Takes a cohort whose base diverged back, with a lower learning rate from there on.

    It goes back to the last rung, under all seeds. Where it diverges again before the next one, it
    goes back to the first weights: those of the last rung may be damaged already.

    Args:
        seed: under which the base diverged.
        step: how many steps were finite.

    Returns:
        The index of the cohort to go on with, and a sentence for the user.

    Raises:
        UserError: the learning rate was lowered often enough, or no learning rate can help.
    """
    lowered, index = state.facts["lowered"], cohort.index
    if step == 0 or len(lowered) == LOWERINGS:
        raise _give_up(state, index, step)
    lr, again = LOWERED_TO * state.lr, state.facts["went_back"] == [index, cohort.rung]
    kept = read_rung_snapshot(state.run_directory)
    if kept is not None:
        # The clock does not go back: the time was spent.
        kept.record["pace"]["wall_s"] = state.throughput.record_of()["wall_s"]
        state.restore(kept)
    anew = kept is None or (again and cohort.rung > 1)
    back_to = 0 if kept is None or anew else kept.record["steps"][str(seed)]
    drop = LearningRateDrop(index, cohort.rung, seed, step, back_to, lr)
    state.facts["lowered"] = [*lowered, asdict(drop)]
    state.facts["went_back"] = [index, cohort.rung]
    if kept is None or anew:
        index = _start_anew(state, cohort if kept is None else state.cohort(index), parts=1)
    else:
        state.start_from(kept.tensors, state.cohort(index))
    return index, str(drop)


def _give_up(state: SearchState, index: int, step: int) -> UserError:
    """Ends the heads of a cohort whose base diverged; returns the error that says what may help."""
    for head in state.leaderboard.live(index):
        head.end("failed", "the base diverged")
    state.facts["diverged"] = True
    state.tell_ended()
    if step == 0:
        return UserError(
            "the base diverged in its first step: its features or gradients are not finite "
            "before any update, which no lower --lr mends; look at its first weights and at "
            "the images"
        )
    return UserError(
        f"the base diverged at step {step}: its features or gradients are not finite, with "
        f"the learning rate lowered {LOWERINGS} times already; try a lower --lr than "
        f"{state.lr:g}"
    )


def split(state: SearchState, cohort: Cohort) -> tuple[int, str]:
    """Splits a cohort that did not fit into memory in two; sets a head aside that does not alone.

    Returns:
        The index of the cohort to go on with, and a sentence for the user.

    Raises:
        UserError: the base does not fit even without heads.
    """
    live = state.leaderboard.live(cohort.index)
    if not live:
        raise UserError(
            "memory does not suffice for the base alone: a smaller --batch-size needs less"
        )
    if len(live) > 1:
        parts = _in_parts(live, 2)
        found = CohortSplit(cohort.index, tuple(map(len, parts)))
        state.facts["splits"] = [*state.facts["splits"], asdict(found)]
        state.facts["went_back"] = None
        return _start_anew(state, cohort, parts=2), str(found)
    for head in live:
        head.end("failed", TOO_LARGE)
    state.start_from({}, state.new_cohort(cohort.index + 1))
    state.tell_ended()
    names = ", ".join(head.candidate.name for head in live)
    return cohort.index + 1, (
        f"{names} does not fit into memory even alone with the base: set aside; a smaller "
        "--batch-size needs less"
    )


def _start_anew(state: SearchState, cohort: Cohort, parts: int) -> int:
    """Lets the live heads of a cohort train from the first weights again, in so many cohorts.

    Heads that have ended keep their results, as a cohort of their own. Later cohorts move up.

    Returns:
        The index of the first of the new cohorts.
    """
    index, live = cohort.index, state.leaderboard.live(cohort.index)
    ended = state.sizes[index] - len(live)
    shared = _in_parts(live, parts)
    first = index + (ended > 0)
    new = [ended] * (ended > 0) + [len(part) for part in shared]
    state.sizes[index : index + 1] = new
    later = len(new) - 1
    state.leaderboard.move_up(index, later)
    for incident in (*state.facts["lowered"], *state.facts["splits"]):
        if incident["cohort"] > index:
            incident["cohort"] += later
    for number, part in enumerate(shared, first):
        for entry in part:
            state.leaderboard.begin_anew(entry, number)
    state.throughput.cohorts = len(state.sizes)
    state.throughput.undone(sum(cohort.steps.values()), cohort.rung)
    state.start_from({}, state.new_cohort(first))
    state.trials.group(state.leaderboard.cohorts)
    state.tell_ended()
    return first


def _in_parts(heads: Sequence[Entry], parts: int) -> list[Sequence[Entry]]:
    """Heads in so many even parts, in the order they came: controls first."""
    sizes = cohort_sizes(len(heads), max(1, math.ceil(len(heads) / parts)))
    ends = list(accumulate(sizes))
    return [heads[end - size : end] for end, size in zip(ends, sizes, strict=True)]

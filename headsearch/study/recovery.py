"""Recovery of a search whose base diverged, or whose cohort did not fit into memory.

If the base diverges, its cohort goes back to the last rung with a lower learning rate. If a cohort
does not fit into memory, it starts anew as two cohorts. Both decisions depend on nothing but the
snapshots, so that a search that is interrupted around them reaches the same result.
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
    """Takes a cohort whose base diverged back to an earlier state, with a lower learning rate.

    The cohort goes back to the last rung, for all seeds. If the base diverges again before the next
    rung, the cohort goes back to its first weights: those of the last rung may be damaged already.

    Args:
        state: the state of the search.
        cohort: the cohort.
        seed: the seed with which the base diverged.
        step: the number of steps that were finite.

    Returns:
        The index of the cohort to continue with, and a sentence for the user.

    Raises:
        UserError: the learning rate was lowered `LOWERINGS` times already, or the base diverged in
            its first step, which no learning rate can help.
    """
    lowered, index = state.facts["lowered"], cohort.index
    if step == 0 or len(lowered) == LOWERINGS:
        raise _give_up(state, index, step)
    lr, again = LOWERED_TO * state.lr, state.facts["went_back"] == [index, cohort.rung]
    kept = read_rung_snapshot(state.run_directory)
    if kept is not None:
        # The steps are taken back, but the time that they took was spent all the same.
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
    """Ends the heads of a cohort whose base diverged; returns the error with advice."""
    for head in state.leaderboard.live(index):
        head.end("failed", "the base diverged")
    state.facts["diverged"] = True
    state.tell_ended()
    if step == 0:
        return UserError(
            "the base diverged in its first step: its features or gradients are not finite "
            "before any update, and a lower --lr does not help; check its first weights and "
            "the data"
        )
    return UserError(
        f"the base diverged at step {step}: its features or gradients are not finite, with "
        f"the learning rate lowered {LOWERINGS} times already; try a lower --lr than "
        f"{state.lr:g}"
    )


def split(state: SearchState, cohort: Cohort) -> tuple[int, str]:
    """Splits a cohort that did not fit into memory in two; a single head is set aside instead.

    Returns:
        The index of the cohort to continue with, and a sentence for the user.

    Raises:
        UserError: the base does not fit into memory even without heads.
    """
    live = state.leaderboard.live(cohort.index)
    if not live:
        raise UserError(
            "memory does not suffice for the base alone: a smaller --batch-size needs less"
        )
    if len(live) > 1:
        parts = _in_parts(live, 2)
        cohort_split = CohortSplit(cohort.index, tuple(map(len, parts)))
        state.facts["splits"] = [*state.facts["splits"], asdict(cohort_split)]
        state.facts["went_back"] = None
        return _start_anew(state, cohort, parts=2), str(cohort_split)
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
    """Restarts the live heads of a cohort from their first weights, divided into new cohorts.

    Heads that have ended keep their results and become a cohort of their own. The indices of later
    cohorts increase accordingly.

    Args:
        parts: the number of cohorts to divide the live heads into.

    Returns:
        The index of the first of the new cohorts.
    """
    index, live = cohort.index, state.leaderboard.live(cohort.index)
    ended = state.sizes[index] - len(live)
    divided = _in_parts(live, parts)
    first = index + (ended > 0)
    new_sizes = [ended] * (ended > 0) + [len(part) for part in divided]
    state.sizes[index : index + 1] = new_sizes
    added = len(new_sizes) - 1
    state.leaderboard.move_up(index, added)
    for incident in (*state.facts["lowered"], *state.facts["splits"]):
        if incident["cohort"] > index:
            incident["cohort"] += added
    for number, part in enumerate(divided, first):
        for entry in part:
            state.leaderboard.begin_anew(entry, number)
    state.throughput.cohorts = len(state.sizes)
    state.throughput.undone(sum(cohort.steps.values()), cohort.rung)
    state.start_from({}, state.new_cohort(first))
    state.trials.group(state.leaderboard.cohorts)
    state.tell_ended()
    return first


def _in_parts(heads: Sequence[Entry], parts: int) -> list[Sequence[Entry]]:
    """Divides heads into even parts, keeping their order (controls come first)."""
    sizes = cohort_sizes(len(heads), max(1, math.ceil(len(heads) / parts)))
    ends = list(accumulate(sizes))
    return [heads[end - size : end] for end, size in zip(ends, sizes, strict=True)]

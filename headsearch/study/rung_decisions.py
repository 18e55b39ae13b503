"""Which heads leave at a rung: as the pruner decides here, or as was decided elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from headsearch.study.cohort import Cohort
from headsearch.study.trials import Trials

Decided: TypeAlias = Mapping[int, Mapping[str, str]]
"""The heads that leave at each rung, with the reason, where rungs are decided over all cohorts. A
rung that is missing is not decided yet."""


def leave_as_pruner_decides(cohort: Cohort, trials: Trials, pruner: str) -> None:
    """Asks the pruner about the heads of a cohort, and lets those leave that it prunes.

    Args:
        cohort: the cohort, scored at its rung.
        trials: the trials of the search.
        pruner: the name of the pruner.
    """
    rung, live = cohort.rung, cohort.live
    # The pruner decides about all heads before any of them leaves, so that their order cannot
    # matter.
    pruned_trials = trials.pruned([head.trial for head in live.values()], rung)
    pruned = [name for name, head in live.items() if head.trial in pruned_trials]
    competing = sum(not head.candidate.control for head in live.values())
    for name in pruned:
        cohort.leave(name, "pruned", why_pruned(pruner, rung, pruned, competing))


def leave_as_decided(cohort: Cohort, rung: int, decided: Decided) -> bool:
    """Lets the heads of a cohort leave that were pruned at a rung.

    Returns:
        Whether the rung is decided. If not, nothing changes.
    """
    if rung not in decided:
        return False
    for name, reason in decided[rung].items():
        if name in cohort.live:  # else it failed since
            cohort.leave(name, "pruned", reason)
    return True


def why_pruned(pruner: str, rung: int, pruned: Collection[object], competing: int) -> str:
    """The reason in ranking.csv of a head that is pruned.

    Args:
        pruner: the name of the pruner.
        rung: the rung.
        pruned: the heads that are pruned there.
        competing: how many heads were compared.
    """
    if pruner != "rung":
        return f"pruned by {pruner} at rung {rung}"
    return f"not among the best {competing - len(pruned)} of {competing} at rung {rung}"

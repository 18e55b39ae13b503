"""What befell a run on its way, as reasons to trust its ranking less."""

from __future__ import annotations

from collections.abc import Iterator

from headsearch.runs.run import Run
from headsearch.text import listing


def befell(run: Run) -> Iterator[str]:
    """A sentence or two on lowered learning rates, and on cohorts that were split."""
    lowered, splits = run.facts.get("lowered", []), run.facts.get("splits", [])
    if lowered:
        times = {1: "once", 2: "twice"}.get(len(lowered), f"{len(lowered)} times")
        each = [
            f"to {found['lr']:g} from step {found['back_to']} of cohort {found['cohort'] + 1} on "
            f"(it had diverged at step {found['step']})"
            for found in lowered
        ]
        text = f"The base diverged, and the learning rate was lowered {times}: {listing(each)}."
        if run.ranking["cohort"].nunique() > 1:
            text += " It holds in later cohorts too."
            if any(found["cohort"] or found["back_to"] for found in lowered):
                text += (
                    " Heads of cohorts that trained at different rates do not compare: search "
                    f"again with --lr {lowered[-1]['lr']:g} to be sure."
                )
        yield text
    for split in splits:
        parts = " and ".join(map(str, split["parts"]))
        yield (
            f"Cohort {split['cohort'] + 1} did not fit into memory: its {sum(split['parts'])} "
            f"heads trained in cohorts of {parts}, each from the same first weights, and were "
            "pruned within them from there on."
        )

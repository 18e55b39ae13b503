"""What befell a run on its way, as reasons to trust its ranking less."""

from __future__ import annotations

from collections.abc import Iterator

from headsearch.checkpoint import Run
from headsearch.report.words import listing


def befell(run: Run) -> Iterator[str]:
    """A sentence or two on learning rates that were lowered."""
    lowered = run.facts.get("lowered", [])
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

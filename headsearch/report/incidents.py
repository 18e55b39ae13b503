"""Sentences for the report on lowered learning rates, split cohorts and early ends."""

from __future__ import annotations

from collections.abc import Iterator

from headsearch.runs.run import Run
from headsearch.text import listing


def incident_sentences(run: Run) -> Iterator[str]:
    """Sentences on learning rates that were lowered, cohorts that were split, and an early end.

    All make the ranking less trustworthy. See `runs.incidents` for when they happen.
    """
    lowered, splits = run.facts.get("lowered", []), run.facts.get("splits", [])
    if lowered:
        times = {1: "once", 2: "twice"}.get(len(lowered), f"{len(lowered)} times")
        each = [
            f"to {drop['lr']:g} from step {drop['back_to']} of cohort {drop['cohort'] + 1} on "
            f"(it had diverged at step {drop['step']})"
            for drop in lowered
        ]
        text = f"The base diverged, and the learning rate was lowered {times}: {listing(each)}."
        if run.ranking["cohort"].nunique() > 1:
            text += " It stays lowered in later cohorts."
            # A first cohort that restarted at step 0 trained at the lowered rate throughout.
            if any(drop["cohort"] or drop["back_to"] for drop in lowered):
                text += (
                    " Heads of cohorts that trained at different rates are not comparable: search "
                    f"again with --lr {lowered[-1]['lr']:g} to be sure."
                )
        yield text
    for split in splits:
        parts = " and ".join(map(str, split["parts"]))
        yield (
            f"Cohort {split['cohort'] + 1} did not fit into memory: its {sum(split['parts'])} "
            f"heads trained in cohorts of {parts}, each from the same initial weights, and were "
            "then pruned within these smaller cohorts."
        )
    if settled := run.facts.get("settled"):
        end = f"rung {settled['rung']} of {settled['of']}"
        yield (
            f"The search stopped at {end}, because the order of the heads had settled: Kendall's τ "
            f"of {settled['agreement']:.2f} with the order at rung {settled['rung'] - 1} (--stop "
            "settled). The order at the last rung may differ."
        )

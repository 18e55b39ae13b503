"""What solo runs say of a search's heads: a table, and a verdict in plain words."""

from __future__ import annotations

import math

from headsearch.report.columns import percent, points
from headsearch.report.statistics.gains import Gain, Verified, verified
from headsearch.report.tables import Table
from headsearch.runs.run import Run
from headsearch.runs.tables import NO_HEAD
from headsearch.text import listing

VERIFIED_LEGEND = (
    "Each run pretrained the base with that head alone, as long as the search did. A gain is in "
    "the mean of k-NN and linear accuracy on the reporting labels; the order was found on the "
    "others. "
    "Intervals are 95%, hold for all heads at once (Dunnett), and have the seeds' own effect taken "
    "out; p is that of no difference from the control."
)


def verified_table(run: Run) -> Table | None:
    """The verified heads by their gain, then the controls; None without solo runs to compare."""
    found = verified(run)
    if found is None:
        return None
    over = found.control is not None
    ranks = dict(zip(run.ranking["candidate"], run.ranking["rank"], strict=True))
    by_name = run.solo.groupby("candidate")
    knn, linear = (dict(by_name[probe].mean()) for probe in ("base_knn", "base_linear"))
    runs = run.solo["candidate"].value_counts()
    others = [name for name in found.over_none if name not in found.order]
    headings = ["Solo", "Candidate", "In the search", "Gain over no head (points)"]
    headings += [f"Over {found.control} (points)", "p"] if over else []
    rows = []
    for name in (*found.order, *others, NO_HEAD):
        place = str(found.order.index(name) + 1) if name in found.order else "control"
        cells = [place, name, str(ranks.get(name, "–")), _gain(found.over_none.get(name))]
        if over:
            gain = found.over_control.get(name)
            cells += [_gain(gain), _p(gain)]
        rows.append([*cells, percent(knn[name]), percent(linear[name]), str(int(runs[name]))])
    return Table(
        [*headings, "Base k-NN", "Base linear", "Runs"],
        [False, False, *(True for _ in headings[2:]), True, True, True],
        rows,
    )


def verdict(found: Verified) -> str:
    """Which heads help, and which cannot be told apart, in a few sentences."""
    where = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    if found.seeds == 1 or math.isnan(found.deviation):
        first = found.order[0]
        gain = found.over_none[first]
        return (
            f"Solo runs of {where}: {first} gains most, {points(gain.value)} points over no head; "
            "without a second seed nobody knows whether that is chance."
        )
    parts = [f"Solo runs of {where}:"]
    if found.control is None:
        parts.append(_against(found, found.over_none, "no head"))
    else:
        parts.append(_against(found, found.over_control, f"the control {found.control}"))
        gaining = [name for name in found.order if found.over_none[name].better]
        parts.append(
            f"Over no head at all, {listing(gaining)} {_verb(gaining, 'gains', 'gain')} beyond "
            "chance."
            if gaining
            else "No head gains beyond chance over no head at all."
        )
    return " ".join(parts)


def _against(found: Verified, compared: dict[str, Gain], control: str) -> str:
    better = [name for name in found.order if compared[name].better]
    worse = [name for name in found.order if compared[name].worse]
    equal = [name for name in found.order if name not in (*better, *worse)]
    parts = []
    if better:
        best = compared[better[0]]
        parts.append(
            f"{listing(better)} {_verb(better, 'is', 'are')} better than {control} "
            f"({better[0]} by {points(best.value)} points, 95% interval {points(best.low)} to "
            f"{points(best.high)})"
        )
    if equal:
        parts.append(f"{listing(equal)} cannot be told apart from {control}")
    if worse:
        parts.append(f"{listing(worse)} {_verb(worse, 'is', 'are')} worse than {control}")
    return "; ".join(parts) + "."


def _verb(names: list[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _gain(gain: Gain | None) -> str:
    if gain is None:
        return "–"
    if math.isnan(gain.low):
        return points(gain.value)
    return f"{points(gain.value)} [{points(gain.low)}, {points(gain.high)}]"


def _p(gain: Gain | None) -> str:
    if gain is None or math.isnan(gain.p):
        return "–"
    return "<0.001" if gain.p < 0.001 else f"{gain.p:.2g}"

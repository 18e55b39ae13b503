"""The results of solo runs in the report: a table and a verdict in sentences."""

from __future__ import annotations

import math

from headsearch.report.columns import percent, points
from headsearch.report.statistics.gains import Gain, Verified, verified
from headsearch.report.tables import Table
from headsearch.report.verdict import SHOWN_GAIN
from headsearch.runs.run import Run
from headsearch.runs.tables import NO_HEAD
from headsearch.text import listing

VERIFIED_LEGEND = (
    "Each run pretrained the base with that head alone, as long as the search did. A gain is the "
    "difference in the mean of k-NN and linear accuracy on the reporting labels; the order was "
    "found on the other labels. Intervals are 95% intervals for all heads at once (Dunnett), with "
    "the effect of the seed removed; p is the p-value of no difference from the control."
)


def verified_table(run: Run) -> Table | None:
    """The verified heads by their gain, then the controls; None without comparable solo runs."""
    solo = verified(run)
    if solo is None:
        return None
    has_control = solo.control is not None
    ranks = dict(zip(run.ranking["candidate"], run.ranking["rank"], strict=True))
    by_name = run.solo.groupby("candidate")
    knn, linear = (dict(by_name[probe].mean()) for probe in ("base_knn", "base_linear"))
    runs = run.solo["candidate"].value_counts()
    others = [name for name in solo.over_none if name not in solo.order]
    headings = ["Solo", "Candidate", "In the search", "Gain over no head (points)"]
    headings += [f"Over {solo.control} (points)", "p"] if has_control else []
    rows = []
    for name in (*solo.order, *others, NO_HEAD):
        place = str(solo.order.index(name) + 1) if name in solo.order else "control"
        cells = [place, name, str(ranks.get(name, "–")), gain_text(solo.over_none.get(name))]
        if has_control:
            gain = solo.over_control.get(name)
            cells += [gain_text(gain), _p(gain)]
        rows.append([*cells, percent(knn[name]), percent(linear[name]), str(int(runs[name]))])
    return Table(
        [*headings, "Base k-NN", "Base linear", "Runs"],
        [False, False, *(True for _ in headings[2:]), True, True, True],
        rows,
        ["Runs", "Base linear", "Base k-NN", "In the search", "p", *headings[4:5], "Solo"],
    )


def verdict(solo: Verified) -> str:
    """Which heads help, and which cannot be told apart from the control, in a few sentences."""
    seeds = "one seed" if solo.seeds == 1 else f"{solo.seeds} seeds"
    if solo.seeds == 1 or math.isnan(solo.deviation):
        first = solo.order[0]
        gain = solo.over_none[first].value
        found = f"{first} gains most" if gain >= SHOWN_GAIN else f"no head gains; first is {first}"
        return (
            f"Solo runs of {seeds}: {found}, {points(gain)} points over no head; without a second "
            "seed it is unknown whether that is chance."
        )
    parts = [f"Solo runs of {seeds}:"]
    if solo.control is None:
        parts.append(_against(solo, solo.over_none, "no head"))
    else:
        parts.append(_against(solo, solo.over_control, f"the control {solo.control}"))
        gaining = [name for name in solo.order if solo.over_none[name].better]
        parts.append(
            f"Over no head at all, {listing(gaining)} {_verb(gaining, 'gains', 'gain')} beyond "
            "chance."
            if gaining
            else "No head gains beyond chance over no head at all."
        )
    return " ".join(parts)


def _against(solo: Verified, compared: dict[str, Gain], control: str) -> str:
    """The heads that are better than a control, those that are not, and those that are worse."""
    better = [name for name in solo.order if compared[name].better]
    worse = [name for name in solo.order if compared[name].worse]
    equal = [name for name in solo.order if name not in (*better, *worse)]
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


def gain_text(gain: Gain | None) -> str:
    """A gain in points with its interval, if it has one."""
    if gain is None:
        return "–"
    if math.isnan(gain.low):
        return points(gain.value)
    return f"{points(gain.value)} [{points(gain.low)}, {points(gain.high)}]"


def _p(gain: Gain | None) -> str:
    if gain is None or math.isnan(gain.p):
        return "–"
    return "<0.001" if gain.p < 0.001 else f"{gain.p:.2g}"

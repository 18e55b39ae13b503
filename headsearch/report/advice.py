"""The advice: one sentence that says which head to take, why, and how certain that is."""

from __future__ import annotations

import math

from headsearch.evaluation.rank_by import RANK_BY
from headsearch.report.columns import COLUMNS, percent, points
from headsearch.report.statistics.gains import Gain, Verified, verified
from headsearch.report.statistics.intervals import accuracy_interval
from headsearch.report.statistics.ranking import (
    base_has_learnt,
    contenders,
    last_rung,
    rank_by,
    reporting_images,
)
from headsearch.report.statistics.seed_noise import clearly_ahead
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked
from headsearch.text import listing

NAMED = 3  # rivals that the sentence names; further ones are counted


def advice(run: Run) -> str:
    """The recommendation that follows from a finished or unfinished run, in one sentence.

    If there are solo runs, they decide; the ranking alone is a prediction. A control can rank first
    but is never recommended, because it adds nothing that the base lacks.
    """
    measured = verified(run)
    if measured is not None and measured.order:
        return _verified_advice(measured)
    rows = ranked(run.ranking)
    last = last_rung(run)
    if not rows and last is not None:
        return "No head can be recommended, because ranking.csv is missing."
    if last is None:
        return "No head can be recommended yet, because no rung has been scored."
    peers = contenders(rows)
    if not peers:
        reason = f" ({rows[0].reason})" if rows[0].reason else ""
        return f"No head is recommended, because {_all(len(rows))} collapsed or failed{reason}."
    if last == 0:
        return (
            "No head can be recommended yet, because only the untrained network (rung 0) has "
            "been scored."
        )
    provisional = _provisional(run, last)
    if peers[0].control:
        return provisional + ("no" if provisional else "No") + _control_wins(run, peers)
    return provisional + _recommend(run, peers)


def _verified_advice(solo: Verified) -> str:
    """The recommendation that follows from the solo runs."""
    helping = [name for name in solo.order if solo.over_none[name].better]
    first = (helping or solo.order)[0]
    gain = solo.over_none[first]
    gains = f"it gains the base {_amount(gain)} over no head in solo runs of "
    gains += "one seed" if solo.seeds == 1 else f"{solo.seeds} seeds"
    if math.isnan(gain.low):
        return f"{first}: a first guess, because {gains}, which may be chance; verify more --seeds."
    over_control = solo.over_control.get(first)
    if not gain.better:
        return (
            f"No head is recommended, because none is shown to help: the best verified head, "
            f"{first}, gains {_amount(gain)} over no head."
        )
    if over_control is None:
        return f"{first}: take this head, because {gains}."
    versus_control = f"{_amount(over_control)} over the control {solo.control}"
    if over_control.better:
        return f"{first}: take this head, because {gains}, and {versus_control}."
    return (
        f"{first}: it helps, but is not shown to help more than the base's own kind of block, "
        f"because {gains}, and {versus_control}."
    )


def _amount(gain: Gain) -> str:
    """A gain in percentage points, with its interval if it has one."""
    amount = f"{points(gain.value)} points"
    if math.isnan(gain.low):
        return amount
    return f"{amount} (95% interval {points(gain.low)} to {points(gain.high)})"


def _all(number: int) -> str:
    return "the only candidate" if number == 1 else f"all {number} candidates"


def _provisional(run: Run, last: int) -> str:
    """The start of the sentence for a run that is not complete; empty for one that is."""
    status = run.facts.get("status", "status unknown")
    if status == "complete":
        return ""
    rungs = run.facts.get("rung_count") or run.config.get("rungs")
    total = f" of {rungs}" if rungs else ""
    how = "still running" if status == "running" else str(status)
    return f"Provisional ({how} at rung {last}{total}): "


def _control_wins(run: Run, peers: list[Ranked]) -> str:
    """The end of the sentence for a run in which a control ranks first."""
    leader = peers[0]
    candidate = next((row for row in peers if not row.control), None)
    start = f" head is recommended, because the control {leader.candidate} ranks first"
    if candidate is None:
        return f"{start} and no other head reached its rung."
    margin = "" if clearly_ahead(leader, candidate, run) else ", which cannot be told apart from it"
    return (
        f"{start} ({evidence(leader, run)}), ahead of the best candidate {candidate.candidate} "
        f"({evidence(candidate, run)}){margin}."
    )


def _recommend(run: Run, peers: list[Ranked]) -> str:
    """The sentence that recommends the first-ranked head, with what speaks against it."""
    best = peers[0]
    why = RANK_BY[rank_by(run)].why
    among = f"among the {len(peers)} heads at the same rung " if len(peers) > 1 else ""
    base_learnt = base_has_learnt(run)  # None if unknown
    learnt = base_learnt is True or run.facts.get("labelled") is False
    verdict = "take this head" if learnt else "a first guess at most"
    text = f"{best.candidate}: {verdict}, because {among}{why} ({evidence(best, run)})"
    tail = _rivals(run, peers)
    if run.facts.get("labelled") is False:
        tail.append("there were no labels, so its accuracy is unknown")
    if base_learnt is False:
        tail.append("the base is not yet better than untrained, so train longer")
    elif not learnt:
        tail.append("whether the base has learnt anything was not recorded")
    if learnt and run.facts.get("labelled") is not False:
        tail.append("this is a prediction until `headsearch verify` has measured it")
    return "; ".join([text, *tail]) + "."


def _rivals(run: Run, peers: list[Ranked]) -> list[str]:
    """How the first-ranked head compares with the others."""
    best, others = peers[0], peers[1:]
    if not others:
        return ["no other head reached its rung, so there is no comparison"]
    equal = [row for row in others if not clearly_ahead(best, row, run)]
    if not equal:
        return [
            f"the runner-up {others[0].candidate} ({evidence(others[0], run)}) is clearly behind"
        ]
    names = [f"the control {row.candidate}" if row.control else row.candidate for row in equal]
    # A control that is as good is the strongest reason for doubt, so it is always named.
    names.sort(key=lambda name: not name.startswith("the control "))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"it cannot be told apart from {listing(names[:NAMED], final=not more)}{more}"]


def evidence(row: Ranked, run: Run) -> str:
    """The figures behind a rank: discrepancy and accuracy, each with its 95 % interval."""
    figure = COLUMNS["discrepancy"].text
    parts = []
    if math.isfinite(row.discrepancy):
        parts.append(f"discrepancy {figure(row.discrepancy)}")
    if math.isfinite(row.discrepancy_low):
        low, high = figure(row.discrepancy_low), figure(row.discrepancy_high)
        parts.append(f"95% interval {low} to {high}")
    if math.isfinite(row.accuracy):
        probe = "linear probe" if math.isnan(row.head_knn) else "k-NN"
        parts.append(f"{probe} {with_error(row.accuracy, reporting_images(run))}")
    return ", ".join(parts) or "not scored"


def with_error(accuracy: float, images: int | None) -> str:
    """An accuracy as '38.1 ± 1.9%', or as '38.1%' if the number of images is unknown."""
    if images is None:
        return percent(accuracy)
    _, low, high = accuracy_interval(accuracy, images)
    return f"{100 * accuracy:.1f} ± {50 * (high - low):.1f}%"

"""The advice: one sentence that says which head to take, why, and how certain that is.

What may be concluded is decided in `verdict.py`; this file has the words.
"""

from __future__ import annotations

import math

from headsearch.report.columns import COLUMNS, points, score_column, with_error
from headsearch.report.statistics.gains import Gain, Verified, verified
from headsearch.report.statistics.ranking import (
    contenders,
    last_rung,
    rank_by,
    reporting_images,
)
from headsearch.report.statistics.seed_noise import clearly_ahead
from headsearch.report.verdict import Verdict, like_controls, verdict_of
from headsearch.runs.rank_by import criterion
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked
from headsearch.text import listing

NAMED = 3  # rivals that the sentence names; further ones are counted


def advice(run: Run) -> str:
    """What to do after a finished or unfinished run, in one sentence.

    If there are solo runs, they decide; the ranking alone is a prediction. A control can rank first
    but is never recommended, because it adds nothing that the base lacks.
    """
    solo = verified(run)
    verdict = verdict_of(run, solo)
    if solo is not None and solo.order:
        return _verified_advice(verdict, solo)
    if verdict in _WITHOUT_HEAD:
        return _WITHOUT_HEAD[verdict]
    rows = ranked(run.ranking)
    if verdict is Verdict.NONE_HEALTHY:
        reason = f" ({rows[0].reason})" if rows[0].reason else ""
        doubts = run.facts.get("data_warnings", [])
        blamed = (
            f"; the {run.words.samples} may be the cause rather than the heads: {doubts[0]}"
            if doubts
            else ""
        )
        ended = f"{_all(len(rows))} collapsed or failed{reason}"
        return f"No head is recommended, because {ended}{blamed}."
    return _provisional(run) + _sentence(verdict, run, contenders(rows))


_WITHOUT_HEAD = {
    Verdict.NO_TABLE: "No head can be recommended, because ranking.csv is missing.",
    Verdict.NOT_SCORED: "No head can be recommended yet, because no rung has been scored.",
    Verdict.UNTRAINED: (
        "No head can be recommended yet, because only the untrained network (rung 0) has been "
        "scored."
    ),
}


def _sentence(verdict: Verdict, run: Run, peers: list[Ranked]) -> str:
    """The sentence about a search.

    Args:
        verdict: on the search.
        run: the search.
        peers: the heads that are comparable with the first one, best first.
    """
    first = next((row for row in peers if not row.control), None)
    if verdict is Verdict.CONTROL_FIRST or first is None:
        return _control_first(run, peers, first)
    name, found = first.candidate, f"({evidence(first, run)})"
    why = run.words.say(criterion(rank_by(run)).why)
    rivals = _rivals(run, first, [row for row in peers if row is not first])
    match verdict:
        case Verdict.SATURATED:
            return (
                "No head can be recommended, because all heads have the same accuracy on the "
                f"reporting labels ({with_error(first.accuracy, reporting_images(run))}): use "
                f"evaluation {run.words.samples} that are harder or easier to classify."
            )
        case Verdict.BASE_NOT_BETTER:
            return (
                "No head can be recommended yet, because the base is not better than untrained: "
                f"train longer; {name} ranks first for now {found}."
            )
        case Verdict.LIKE_CONTROL:
            controls = [row for row in peers if row.control]
            alike = listing([f"the control {each}" for each in like_controls(run, first, controls)])
            return (
                f"No head is worth taking yet, because the first, {name} {found}, cannot be told "
                f"apart from {alike}; train longer, or use more --eval-images or --seeds."
            )
        case Verdict.NO_ACCURACY:
            return (
                f"{name}: a hint at most, because {why} {found}, and without labels it is unknown "
                f"whether it helps; {rivals}; labelled --eval-data would settle it, or your own "
                "evaluation of bases that are pretrained with and without it."
            )
        case Verdict.NO_CONTROL:
            return (
                f"{name}: a first guess at most, because {why} {found}, but no control reached its "
                f"rung to compare it with; {rivals}."
            )
        case Verdict.NO_RIVAL:
            return (
                f"{name}: a first guess at most, because it is ahead of the controls {found}, but "
                "no other head reached its rung, so there is no comparison."
            )
        case Verdict.LEARNING_UNKNOWN:
            return (
                f"{name}: a first guess at most, because {why} {found}, but whether the base has "
                f"learned anything was not recorded; {rivals}."
            )
    return (
        f"{name}: take this head, because among the {len(peers)} heads at the same rung {why} "
        f"{found}; it is ahead of every control; {rivals}; this is a prediction until "
        "`headsearch verify` has measured it."
    )


def _control_first(run: Run, peers: list[Ranked], first: Ranked | None) -> str:
    """The sentence for a search in which a control ranks first."""
    leader = peers[0]
    start = f"No head is recommended, because the control {leader.candidate} ranks first"
    if first is None:
        return f"{start} and no other head reached its rung."
    behind = "is behind it" if clearly_ahead(leader, first, run) else "cannot be told apart from it"
    return (
        f"{start} ({evidence(leader, run)}); the best candidate, {first.candidate} "
        f"({evidence(first, run)}), {behind}."
    )


def _rivals(run: Run, best: Ranked, others: list[Ranked]) -> str:
    """How a head compares with the others at its rung."""
    if not others:
        return "no other head reached its rung, so there is no comparison"
    equal = [row for row in others if not clearly_ahead(best, row, run)]
    if not equal:
        return f"the runner-up {others[0].candidate} ({evidence(others[0], run)}) is clearly behind"
    names = [f"the control {row.candidate}" if row.control else row.candidate for row in equal]
    # A control that is as good is the strongest reason for doubt, so it is always named.
    names.sort(key=lambda name: not name.startswith("the control "))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"it cannot be told apart from {listing(names[:NAMED], final=not more)}{more}"


def _verified_advice(verdict: Verdict, solo: Verified) -> str:
    """The recommendation that follows from the solo runs."""
    name = solo.best
    gain, over_control = solo.over_none[name], solo.over_control.get(name)
    seeds = "one seed" if solo.seeds == 1 else f"{solo.seeds} seeds"
    gains = f"it gains the base {_amount(gain)} over no head in solo runs of {seeds}"
    if verdict is Verdict.VERIFIED_NONE:
        return (
            "No head is recommended, because none is shown to help: the best verified head, "
            f"{name}, gains the base {_amount(gain)} over no head in solo runs of {seeds}."
        )
    if verdict is Verdict.VERIFIED_ONE_SEED:
        return f"{name}: a first guess, because {gains}, which may be chance; verify more --seeds."
    versus = (
        f", and {_amount(over_control)} over the control {solo.control}"
        if over_control is not None
        else ""
    )
    if verdict is Verdict.VERIFIED_LIKE_OWN:
        return (
            f"{name}: it helps, but is not shown to help more than the control {solo.control}, "
            f"because {gains}{versus}."
        )
    return f"{name}: take this head, because {gains}{versus}."


def _amount(gain: Gain) -> str:
    """A gain in percentage points, with its interval if it has one."""
    amount = f"{points(gain.value)} points"
    if math.isnan(gain.low):
        return amount
    return f"{amount} (95% interval {points(gain.low)} to {points(gain.high)})"


def _all(number: int) -> str:
    return "the only candidate" if number == 1 else f"all {number} candidates"


def _provisional(run: Run) -> str:
    """The start of the sentence for a run that is not complete; empty for one that is."""
    status = run.facts.get("status", "status unknown")
    if status == "complete":
        return ""
    rungs = run.facts.get("rung_count") or run.config.get("rungs")
    total = f" of {rungs}" if rungs else ""
    how = "still running" if status == "running" else str(status)
    return f"Provisional ({how} at rung {last_rung(run)}{total}): "


def evidence(row: Ranked, run: Run) -> str:
    """The figures of a head: its score, and discrepancy and accuracy with their 95 % intervals.

    The score is what heads are ranked by, on the labels that choose; it is left out where it is the
    discrepancy. The accuracy is that on the reporting labels, so a head that ranks lower can have
    a higher one.
    """
    figure = COLUMNS["discrepancy"].text
    parts = []
    if rank_by(run) != "discrepancy" and math.isfinite(row.score):
        score = score_column(run)
        parts.append(f"score {score.text(row.score)}{score.unit}")
    if math.isfinite(row.discrepancy):
        parts.append(f"discrepancy {figure(row.discrepancy)}")
    if math.isfinite(row.discrepancy_low):
        low, high = figure(row.discrepancy_low), figure(row.discrepancy_high)
        parts.append(f"95% interval {low} to {high}")
    if math.isfinite(row.accuracy):
        probe = "linear probe" if math.isnan(row.head_knn) else "k-NN"
        parts.append(
            f"{probe} {with_error(row.accuracy, reporting_images(run))} on the reporting labels"
        )
    return ", ".join(parts) or "not scored"

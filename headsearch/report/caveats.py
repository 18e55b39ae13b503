"""The report's list of reasons to trust its ranking less, as sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from scipy import stats

from headsearch.report.columns import percent, signed, with_error
from headsearch.report.expected_gain import expected_gain
from headsearch.report.incidents import incident_sentences
from headsearch.report.statistics.gains import Verified, verified
from headsearch.report.statistics.rank_correlation import trend
from headsearch.report.statistics.ranking import (
    base_has_learnt,
    contenders,
    last_rung,
    rank_by,
    reporting_images,
)
from headsearch.report.statistics.seed_noise import clearly_ahead, rank_noise, seeds_of
from headsearch.report.verdict import saturated, search_facts
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked
from headsearch.text import listing, ordinal

DOMINANT_SHARE = 0.5  # beyond half the variance, CKA mostly compares one direction


def trust(run: Run) -> Iterator[str]:
    """The reasons to trust the ranking less, the most serious first."""
    rows = ranked(run.ranking)
    baselines = run.facts.get("baselines", {})
    images, words = reporting_images(run), run.words
    status = run.facts.get("status")
    if status is None:
        yield "The study of this run could not be read, so it is unknown how the run ended."
    elif status != "complete":
        yield f"The run is {status}: everything in this report is provisional."
    yield from incident_sentences(run)
    for warning in run.facts.get("data_warnings", []):
        yield f"The data: {warning}."
    if last_rung(run) is None:
        yield "No rung scored yet: there is nothing to rank."
        return
    if base_has_learnt(run) is False:
        yield (
            "The trained base is not more accurate than the untrained one beyond error: the "
            "training was too short for its heads to say much about a full training."
        )
    yield from _seeds(run)
    if run.facts.get("labelled") is False:
        yield (
            "No labels: accuracy was not measured, and the ranking is by discrepancy. A head can "
            "differ from the base and still be useless; effective rank only rules out collapse."
        )
    elif images is not None:
        of_heads = (row.accuracy for row in rows if math.isfinite(row.accuracy))
        typical = baselines.get("base_knn") or baselines.get("base_linear") or next(of_heads, 0.5)
        yield (
            f"k-NN and linear accuracy are measured on {images:,} reporting {words.samples}: an "
            f"accuracy like the base's has the interval {with_error(typical, images)} (95%, "
            "binomial). "
            f"Choosing and pruning used other {words.samples}."
        )
    if saturated(search_facts(run).accuracies):
        yield (
            "All accuracies are at their limit: these evaluation "
            f"{words.samples} are too easy or too hard to rank heads by."
        )
    yield from _comparisons(run, rows)
    measured = verified(run)
    if measured is not None:
        yield from _predictions(run, measured)
    else:
        yield from expected_gain(run)
    yield from _trend(run)
    share = run.facts.get("dominant_share")
    if share is not None and share > DOMINANT_SHARE:
        yield (
            f"One principal component holds {percent(share)} of the base's variance on the probe "
            f"{words.samples}: CKA then compares little else, and discrepancies are underestimated."
        )
    for row in rows:
        if not row.healthy:
            yield f"{row.candidate} {row.state}{': ' if row.reason else ''}{row.reason}."


def _seeds(run: Run) -> Iterator[str]:
    """How much of the ranking depends on the seed."""
    first, noise = run.config.get("seed", 0), rank_noise(run)
    if seeds_of(run) > 1 and noise is None:
        yield f"{seeds_of(run)} seeds, but fewer than two heads are left to compare."
        return
    if noise is None or noise.seeds == 1:
        yield (
            f"One seed ({first}): how much another seed moves the ranks is unknown (measure it "
            "with `headsearch run --seeds 3`). Brackets behind ranks reflect only the choice of "
            f"{run.words.samples}."
        )
        return
    yield (
        f"{noise.seeds} seeds ({first} to {first + noise.seeds - 1}): a head's score scatters by "
        f"{noise.deviation:.2g} (standard deviation) from seed to seed, and the rankings of two "
        f"seeds agree with Kendall's τ = {signed(noise.seed_to_seed)} on average. Two heads differ "
        f"significantly if their scores differ by more than {noise.least_difference:.2g} (Tukey, "
        "95% for all pairs at once). Heads that share a letter do not; brackets behind ranks are "
        "95% intervals."
    )


def _predictions(run: Run, solo: Verified) -> Iterator[str]:
    """The search's ranking beside the order that solo runs measured."""
    ranks = dict(zip(run.ranking["candidate"], run.ranking["rank"], strict=True))
    heads = [name for name in solo.order if name in ranks]
    if len(heads) < 2:
        return
    first = min(heads, key=lambda name: ranks[name])
    place = solo.order.index(first) + 1
    text = (
        f"Predicted against measured: of the {len(heads)} verified heads, the search's first, "
        f"{first}, comes {ordinal(place)} by gain"
    )
    measured = [-solo.order.index(name) for name in heads]
    tau = stats.kendalltau([-ranks[name] for name in heads], measured).statistic
    agreement = f"; both orders agree with Kendall's τ = {signed(tau)}" if len(heads) > 2 else ""
    yield f"{text}{agreement}."


def _comparisons(run: Run, rows: list[Ranked]) -> Iterator[str]:
    """Which heads cannot be told apart, and which figures do not compare."""
    peers = contenders(rows)
    equal = [row.candidate for row in peers[1:] if not clearly_ahead(peers[0], row, run)]
    if equal:
        yield (
            f"The first-ranked {peers[0].candidate} cannot be told apart from {listing(equal)}: "
            "their intervals do not settle the order."
        )
    elif len(peers) > 1:
        yield f"The first-ranked {peers[0].candidate} is ahead of all others beyond error."
    if len(peers) > 1:
        yield f"The first of {len(peers)} heads is partly first by chance: {_chosen_on(run)}."
    if any(row.state == "pruned" for row in rows):
        yield (
            "Pruned heads were last scored at an earlier rung, after less training: their figures "
            "are not comparable with those of heads that were trained to the end."
        )


def _chosen_on(run: Run) -> str:
    """Which of the winner's figures are too high, because the heads were ranked by them."""
    samples = run.words.samples
    if rank_by(run) == "discrepancy":
        what = f"discrepancy is used for choosing and reported on the same {samples}"
        return f"{what}, so the winner's is slightly overestimated"
    return (
        f"Score is used for choosing and reported on the same {samples}, so the winner's is "
        f"slightly overestimated; k-NN and Linear are measured on other {samples}"
    )


def _trend(run: Run) -> Iterator[str]:
    """Whether accuracy goes with discrepancy over the heads, with both correlations."""
    y = "head_knn" if run.rungs["head_knn"].notna().any() else "head_linear"
    over_discrepancy = trend(run, "discrepancy", y)
    if over_discrepancy is None:
        return
    correlation = over_discrepancy.correlation
    tau, rho = (
        f"{signed(value)} [{signed(low)}, {signed(high)}]"
        for value, low, high in (correlation.kendall, correlation.spearman)
    )
    # Both are required: interval and permutation test can disagree on a weak trend.
    kendall = correlation.kendall
    shown = correlation.p < 0.05 and (kendall.low > 0 or kendall.high < 0)
    verdict = "the trend is unlikely to be chance" if shown else "no trend is shown"
    yield (
        f"Accuracy over discrepancy at rung {over_discrepancy.rung}, before pruning selects "
        f"({correlation.number} heads): Kendall's τ = {tau}, permutation p = {correlation.p:.2g}; "
        f"Spearman's ρ = {rho}: {verdict}."
    )

"""Seed noise: how far a search's ranking can be trusted, from its scores under several seeds.

The scores of one seed are correlated, and the scatter of one head over three seeds says little. So
the model is that of solo runs (`gains.fit`): score(head, seed) = μ_head + σ_seed + ε, with one
variance of ε for all heads. Two heads differ significantly if their means differ by more than
Tukey's honestly significant difference, which holds for all pairs at once. The same comparisons
give the interval of a head's rank (Al Mohamad, Goeman & van Zwet 2022, Biometrika 109): its lower
end is 1 + the number of heads that are better, its upper end the number of heads minus those that
are worse. They also give the letters of heads that do not differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from string import ascii_lowercase

import pandas as pd
from scipy import stats

from headsearch.report.statistics.gains import fit
from headsearch.report.statistics.ranking import contenders, distinct
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked


@dataclass(frozen=True)
class RankNoise:
    """How the ranking varies with the seed.

    With one seed, the fields that need several are NaN or empty.

    Attributes:
        seeds: the number of seeds.
        deviation: standard deviation of a head's score under one seed around its mean, the seed's
            effect removed.
        least_difference: the smallest significant difference of two means; 95 %, for all pairs at
            once.
        ranks: 95 % interval of each head's rank; with several seeds, for all heads at once.
        groups: the letters of each head; heads that share a letter do not differ significantly.
        seed_to_seed: mean Kendall's τ between the rankings of two seeds.
    """

    seeds: int
    deviation: float
    least_difference: float
    ranks: dict[str, tuple[int, int]]
    groups: dict[str, tuple[str, ...]]
    seed_to_seed: float


def rank_noise(run: Run) -> RankNoise | None:
    """The noise of a run's ranking at its last rung; None with fewer than two heads.

    If heads shape their base (coupling joint), only heads of the leader's own cohort are compared,
    because every cohort then has a different base. `identity` is left out: its discrepancy is 0
    under every seed, so it does not share the variance of the others. With one seed, only intervals
    of ranks are known. They come from pairwise comparisons and reflect the noise of the images, not
    of the seed.
    """
    peers = contenders(ranked(run.ranking))
    if run.config.get("coupling") != "observe" and peers:
        cohort = dict(zip(run.ranking["candidate"], run.ranking["cohort"], strict=True))
        peers = [row for row in peers if cohort[row.candidate] == cohort[peers[0].candidate]]
    if seeds_of(run) > 1:
        names = [row.candidate for row in peers if row.family != "identity"]
        last = run.scores[run.scores["rung"] == run.scores["rung"].max()].dropna(subset="score")
        scores = last[last["candidate"].isin(names)]
        return noise_of(scores) if scores["candidate"].nunique() > 1 else None
    if len(peers) < 2:
        return None
    ranks = {
        row.candidate: (
            min(row.rank, 1 + sum(distinct(other, row, run) for other in peers)),
            max(row.rank, len(peers) - sum(distinct(row, other, run) for other in peers)),
        )
        for row in peers
    }
    return RankNoise(1, math.nan, math.nan, ranks, {}, math.nan)


def seeds_of(run: Run) -> int:
    """The number of seeds that the run's scores are means of; 1 if it is not recorded."""
    return max(1, int(run.scores["seed"].nunique()))


def noise_of(table: pd.DataFrame, column: str = "score") -> RankNoise:
    """The noise of the ranking by a score.

    Args:
        table: `candidate, seed` and the score, larger is better: at least two heads, each under the
            same two or more seeds.
        column: the score.
    """
    wide = table.pivot(index="candidate", columns="seed", values=column)
    heads, seeds = wide.shape
    fitted = fit(table, column)
    error = fitted.deviation / math.sqrt(seeds)
    least = _critical_range(heads, fitted.freedom) * error
    means = dict(zip(fitted.names, map(float, fitted.means), strict=True))
    order = sorted(means, key=lambda name: (-means[name], name))
    taus = [stats.kendalltau(wide[a], wide[b]).statistic for a, b in combinations(wide, 2)]
    return RankNoise(
        seeds,
        fitted.deviation,
        least,
        {name: _rank_interval(name, means, least) for name in order},
        _letters([means[name] for name in order], order, least),
        float(sum(taus) / len(taus)),
    )


def clearly_ahead(first: Ranked, second: Ranked, run: Run) -> bool:
    """Whether a head is ahead of another beyond error: that of seeds if there are several.

    With one seed, beyond the error of the images (`ranking.distinct`): the effect of another seed
    is unknown.
    """
    noise = rank_noise(run) if seeds_of(run) > 1 else None
    if noise is None or not {first.candidate, second.candidate} <= set(noise.groups):
        return distinct(first, second, run)
    shared = set(noise.groups[first.candidate]) & set(noise.groups[second.candidate])
    return not shared and first.score > second.score


@lru_cache
def _critical_range(heads: int, freedom: int) -> float:
    """The 95 % quantile of the studentised range."""
    return float(stats.studentized_range.ppf(0.95, heads, freedom))


def _rank_interval(name: str, means: dict[str, float], least: float) -> tuple[int, int]:
    """The interval of a head's rank: from 1 + those better to all but those worse."""
    better = sum(mean - means[name] > least for mean in means.values())
    worse = sum(means[name] - mean > least for mean in means.values())
    return 1 + better, len(means) - worse


def _letters(
    means: Sequence[float], names: Sequence[str], least: float
) -> dict[str, tuple[str, ...]]:
    """A letter for each longest run of heads of which no two differ significantly, best first."""
    letters: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    last_end = 0
    used = 0
    for first in range(len(names)):
        end = next((i for i in range(first, len(names)) if means[first] - means[i] > least),
                   len(names))  # fmt: skip
        if end > last_end:  # else the run lies within the one before
            for name in names[first:end]:
                letters[name] += (_letter(used),)
            last_end, used = end, used + 1
    return letters


def _letter(index: int) -> str:
    """a, b, …, z, aa, ab, …"""
    word = ""
    while index >= 0:
        word = ascii_lowercase[index % 26] + word
        index = index // 26 - 1
    return word

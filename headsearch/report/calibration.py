"""The calibration report: how well a search's scores rank heads, as a table and a sentence."""

from __future__ import annotations

import math

from headsearch.report.columns import percent, signed
from headsearch.report.statistics.agreement import Agreement
from headsearch.report.statistics.calibration import Calibration
from headsearch.report.statistics.intervals import Interval
from headsearch.report.tables import Table
from headsearch.text import counted


def calibration_table(calibration: Calibration) -> Table:
    """A row a score, the primary score first."""
    rows = sorted(calibration.agreements, key=lambda each: not each.primary)
    return Table(
        ["Score", "τ with the gain", "ρ", "p", "τ given params", "Regret (points)",
         "Regret (SD)", "Best in top 3", "Seed to seed τ", "Rung to rung τ"],
        [False, *(True for _ in range(9))],
        [
            [
                each.score + (" (primary)" if each.primary else ""),
                _interval(each.tau),
                _interval(each.rho),
                "–" if math.isnan(each.p) else f"{each.p:.2g}",
                _figure(each.partial),
                f"{100 * each.regret:.1f}",
                f"{each.regret_sd:.2f}",
                percent(each.best_in_top3),
                _figure(each.seed_to_seed),
                _figure(each.rung_to_rung),
            ]
            for each in rows
        ],
        ["Rung to rung τ", "Seed to seed τ", "Regret (SD)", "τ given params", "ρ", "Best in top 3",
         "Regret (points)", "p"],
    )  # fmt: skip


def calibration_words(calibration: Calibration) -> str:
    """The result for the primary score, and the highest τ that any score could reach."""
    primary = next(each for each in calibration.agreements if each.primary)
    ceiling = (
        "with one seed, the noise of the gains is unknown"
        if math.isnan(calibration.ceiling)
        else f"a perfect score would reach {signed(calibration.ceiling)}, because the gains "
        f"themselves are noisy (reliability {signed(calibration.reliability)})"
    )
    return (
        f"{counted(calibration.heads, 'head')}. {primary.score} ranks them with "
        f"τ = {_interval(primary.tau)}; {ceiling}. {_verdict(primary)}"
    )


def _verdict(primary: Agreement) -> str:
    if math.isnan(primary.p) or not (primary.p < 0.05 and primary.tau.low > 0):
        return "It is not shown to rank better than chance."
    return "It ranks better than chance."


def _interval(value: Interval) -> str:
    low, high = signed(value.low), signed(value.high)
    return f"{signed(value.value)} [{low}, {high}]"


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else signed(value)

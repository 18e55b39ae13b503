"""The sentence on the gain of the first-ranked head, as predicted from published solo runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from headsearch.report.columns import points, signed
from headsearch.report.statistics.ranking import base_has_learnt, contenders
from headsearch.runs.published_gains import published, published_model
from headsearch.runs.run import Run
from headsearch.runs.tables import ranked
from headsearch.text import listing

NEAR = 2.0
"""Numbers that differ by less than this factor count as alike."""


def expected_gain(run: Run) -> Iterator[str]:
    """The expected gain of the first head that is no control, if its scores let it be computed.

    None is expected where the base has not learned, as published bases did, or where the head's
    advantage or discrepancy lies outside the published range, in which the model was fitted.
    """
    if not base_has_learnt(run):
        return
    heads = [row.candidate for row in contenders(ranked(run.ranking)) if not row.control]
    if not heads or run.scores.empty:
        return
    rows = run.scores[run.scores["candidate"] == heads[0]]
    last = rows[rows["rung"] == rows["rung"].max()]
    gain = float(last["predicted_gain"].mean())
    if math.isnan(gain) or rows["rung"].max() == 0:
        return
    outside = _outside(last)
    if outside:
        yield f"No gain of {heads[0]} is predicted from published settings: {listing(outside)}."
        return
    fitted = published_model()
    half = f"{100 * fitted.half_width:.1f}"
    settings = f"{fitted.settings} published setting{'s' * (fitted.settings > 1)}"
    yield (
        f"Expected gain of {heads[0]}: {points(gain)} ± {half} points (95% prediction interval), "
        f"from {settings} with {fitted.heads} heads, by its linear accuracy and whether its "
        f"discrepancy exceeds {fitted.model.threshold:.2f}. {_nearness(run)}"
    )


def _outside(rows: pd.DataFrame) -> list[str]:
    """What lies outside the published range: clauses with the value and the range.

    Args:
        rows: of scores.csv, of one head at one rung; a row a seed.
    """
    advantage = float((rows["choose_linear"] - rows["base_choose_linear"]).mean())
    discrepancy = float(rows["cka"].mean())
    clauses = []
    for name, words, value, shown in (
        ("advantage", "its linear accuracy minus the base's", advantage, points),
        ("discrepancy", "its discrepancy", discrepancy, signed),
    ):
        low, high = published()[name].min(), published()[name].max()
        if not low <= value <= high:
            clauses.append(
                f"{words} ({shown(value)}) lies outside their range ({shown(low)} to {shown(high)})"
            )
    return clauses


def _nearness(run: Run) -> str:
    """How near this run's setting is to the published ones."""
    here = _setting(run)
    described = published()[list(here)].drop_duplicates().itertuples(index=False)
    descriptions = [dict(zip(here, each, strict=True)) for each in described]
    apart = min((_differences(here, there) for there in descriptions), key=len)
    which = "The nearest" if len(descriptions) > 1 else "It"
    if not apart:
        return f"{which} is a setting like this run's."
    return (
        f"{which} differs from this run in {listing(apart)}, so the gain may lie outside the "
        "interval."
    )


def _setting(run: Run) -> dict[str, Any]:
    """What describes the setting of a run, as in the published table."""
    base, config, facts = run.facts.get("base", {}), run.config, run.facts
    rows, columns = base.get("grid") or (math.nan, math.nan)
    return {
        "base": base.get("timm_name", config.get("base")),
        "objective": config.get("objective"),
        "data": config.get("data"),
        "width": base.get("dim", math.nan),
        "tokens": rows * columns,
        "images": facts.get("images", math.nan),
        "steps": facts.get("steps", math.nan),
    }


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """The names of what differs; a number counts if it differs by `NEAR` or more."""
    return [
        name
        for name, value in here.items()
        if (
            not 1 / NEAR < value / there[name] < NEAR
            if isinstance(value, int | float)
            else _plain(value) not in _plain(there[name])
            and _plain(there[name]) not in _plain(value)
        )
    ]


def _plain(text: object) -> str:
    """A name without case and punctuation: CIFAR-10 and cifar10/train.tar are the same data."""
    return "".join(character for character in str(text).lower() if character.isalnum())

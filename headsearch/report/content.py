"""What a report says, as plain texts; the templates only lay it out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scipy import stats

from headsearch.config.settings import PRESETS, RunConfig
from headsearch.report.advice import advice, with_error
from headsearch.report.columns import percent, signed
from headsearch.report.incidents import befell
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
from headsearch.report.tables import Table, baselines_table, ranking_table
from headsearch.report.verification import VERIFIED_LEGEND, verdict, verified_table
from headsearch.runs.run import Run
from headsearch.runs.tables import Ranked, ranked
from headsearch.text import duration, listing, ordinal, printable

MEASURES = {
    "cka": "1 − debiased linear CKA (Song et al. 2012; Nguyen et al. 2021)",
    "mutual_knn": "1 − the overlap of mutual nearest neighbours",
    "procrustes": "the angular Procrustes distance",
}
DOMINANT_SHARE = 0.5  # beyond half the variance, CKA mostly compares one direction


@dataclass(frozen=True)
class Content:
    """The texts of one report, unescaped."""

    title: str
    summary: str
    advice: str
    ranking: Table
    legend: str
    verified: Table | None
    verdict: str
    verified_legend: str
    baselines: Table | None
    costs: list[tuple[str, str]]
    trust: list[str]
    method: str
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    command: str


def content(run: Run) -> Content:
    """Everything that the report of this run says, finished or not."""
    found = verified(run)
    return Content(
        title=f"Head search: {run.path.name}",
        summary=_summary(run),
        advice=advice(run),
        ranking=ranking_table(run),
        legend=_legend(run),
        verified=verified_table(run),
        verdict=verdict(found) if found is not None else "",
        verified_legend=VERIFIED_LEGEND,
        baselines=baselines_table(run),
        costs=list(_costs(run)),
        trust=list(_trust(run)),
        method=_method(run),
        settings=_settings(run),
        versions=[(name, str(v)) for name, v in sorted(run.config.get("versions", {}).items())],
        command=_command(run.config),
    )


def _summary(run: Run) -> str:
    config, base = run.config, run.facts.get("base", {})
    heads = len(run.ranking)
    parts = [f"{heads} candidate {'head' if heads == 1 else 'heads'}"]
    name = base.get("name", config.get("base"))
    if name:
        grid = base.get("grid")
        shape = f" ({base.get('dim')} wide, {grid[0]}×{grid[1]} map)" if grid else ""
        parts.append(f"on base {name}{shape}")
    if config.get("data"):
        images = run.facts.get("images")
        parts.append(f"data {config['data']}" + (f" ({images} training images)" if images else ""))
    for key in ("objective", "coupling"):
        if config.get(key):
            parts.append(f"{key} {config[key]}")
    status = run.facts.get("status", "unknown")
    last = last_rung(run)
    rungs = run.facts.get("rung_count") or config.get("rungs")
    reached = "no rung scored yet" if last is None else f"rung {last} of {rungs or '?'} scored"
    parts.append(f"run {status}, {reached}")
    if run.facts.get("started"):
        parts.append(f"started {run.facts['started']}")
    return " · ".join(parts)


def _legend(run: Run) -> str:
    by = {
        "discrepancy": "discrepancy from the base",
        "accuracy": "proxy accuracy",
        "balanced": "the geometric mean of discrepancy and proxy accuracy",
    }[rank_by(run)]
    reason = ", because there are no labels" if run.facts.get("labelled") is False else ""
    return (
        f"Ranked by {by}{reason}; heads that stayed longer come first, collapsed and failed ones "
        "last. Brackets hold 95% intervals. Accuracy is that of the head's output on the reporting "
        "images, which the pruner never saw."
    )


def _costs(run: Run) -> Iterator[tuple[str, str]]:
    facts = run.facts
    if facts.get("wall_s") is not None:
        scoring = facts.get("score_s")
        of = f", {duration(scoring)} of it scoring" if scoring is not None else ""
        yield "Wall time", duration(facts["wall_s"]) + of
    if facts.get("images_per_second") is not None:
        yield "Training throughput", f"{facts['images_per_second']:,.0f} images a second"
    if facts.get("steps") is not None:
        each = f" under each of {facts['seeds']} seeds" if facts.get("seeds", 1) > 1 else ""
        yield "Training steps", f"{facts['steps']:,}{each}"
    cost, solo = facts.get("cost_base_equivalents"), facts.get("solo_equivalents")
    if cost is not None:
        yield "Training compute", f"{cost:.2f} × pretraining the base alone"
    if solo is not None:
        saved = f" ({solo / cost:.1f} times as much)" if cost else ""
        yield "The same candidates, each alone", f"{solo:.2f} × pretraining the base alone{saved}"
    machine = [str(facts[key]) for key in ("device", "precision") if facts.get(key)]
    if facts.get("threads"):
        machine.append(f"{facts['threads']} CPU thread{'s' * (facts['threads'] > 1)}")
    if machine:
        yield "Machine", ", ".join(machine)
    if facts.get("space_size") is not None:
        excluded = facts.get("excluded")
        out = f", {excluded} more excluded by constraints" if excluded else ""
        yield "Search space", f"{facts['space_size']} candidates, {len(run.ranking)} tried{out}"


def _trust(run: Run) -> Iterator[str]:
    """What speaks against believing the ranking, the gravest first."""
    rows = ranked(run.ranking)
    baselines = run.facts.get("baselines", {})
    images = reporting_images(run)
    status = run.facts.get("status")
    if status is None:
        yield "The study of this run could not be read: how it ended is unknown."
    elif status != "complete":
        yield f"The run is {status}: what follows is provisional."
    yield from befell(run)
    if last_rung(run) is None:
        yield "No rung scored yet: there is nothing to rank."
        return
    if base_has_learnt(run) is False:
        yield (
            "The trained base is not above its untrained self beyond error: the training was too "
            "short for its heads to say much about a full one."
        )
    yield from _seeds(run)
    if run.facts.get("labelled") is False:
        yield (
            "No labels: accuracy was not measured, the ranking is by discrepancy. A head can be "
            "different and useless; effective rank only rules out collapse."
        )
    elif images is not None:
        found = (row.accuracy for row in rows if math.isfinite(row.accuracy))
        typical = baselines.get("base_knn") or baselines.get("base_linear") or next(found, 0.5)
        yield (
            f"Accuracies come from {images:,} reporting images, which leaves one like the base's "
            f"at {with_error(typical, images)} (95%, binomial). Choosing and pruning used other "
            "images."
        )
    yield from _comparisons(run, rows)
    measured = verified(run)
    if measured is not None:
        yield from _predictions(run, measured)
    yield from _trend(run)
    share = run.facts.get("dominant_share")
    if share is not None and share > DOMINANT_SHARE:
        yield (
            f"One principal component holds {percent(share)} of the base's variance on the probe "
            "images: CKA then compares little else, and discrepancies come out too small."
        )
    for row in rows:
        if not row.healthy:
            yield f"{row.candidate} {row.state}{': ' if row.reason else ''}{row.reason}."


def _seeds(run: Run) -> Iterator[str]:
    """How much of the order is the seeds' doing."""
    first, noise = run.config.get("seed", 0), rank_noise(run)
    if seeds_of(run) > 1 and noise is None:
        yield f"{seeds_of(run)} seeds, but fewer than two heads are left to compare by them."
        return
    if noise is None or noise.seeds == 1:
        yield (
            f"One seed ({first}): how much another seed moves the ranks is unknown "
            "(`headsearch run --seeds 3` tells); brackets behind ranks hold for other images alone."
        )
        return
    yield (
        f"{noise.seeds} seeds ({first} to {first + noise.seeds - 1}): a head's score scatters by "
        f"{noise.deviation:.2g} from seed to seed, and the orders of two seeds agree with "
        f"Kendall's τ = {signed(noise.seed_to_seed)} on average. Two heads are told apart from a "
        f"difference of {noise.least_difference:.2g} on (Tukey, 95% for all pairs at once); heads "
        "that share a letter are not, and brackets behind ranks say how far they may lie."
    )


def _predictions(run: Run, found: Verified) -> Iterator[str]:
    """What the search predicted, beside what the solo runs measured."""
    ranks = dict(zip(run.ranking["candidate"], run.ranking["rank"], strict=True))
    heads = [name for name in found.order if name in ranks]
    if len(heads) < 2:
        return
    first = min(heads, key=lambda name: ranks[name])
    place = found.order.index(first) + 1
    text = (
        f"Predicted against measured: of the {len(heads)} verified heads, the search's first, "
        f"{first}, comes {ordinal(place)} by gain"
    )
    measured = [-found.order.index(name) for name in heads]
    tau = stats.kendalltau([-ranks[name] for name in heads], measured).statistic
    agreement = f"; both orders agree with Kendall's τ = {signed(tau)}" if len(heads) > 2 else ""
    yield f"{text}{agreement}."


def _comparisons(run: Run, rows: list[Ranked]) -> Iterator[str]:
    peers = contenders(rows)
    equal = [row.candidate for row in peers[1:] if not clearly_ahead(peers[0], row, run)]
    if equal:
        yield (
            f"The first-ranked {peers[0].candidate} cannot be told apart from {listing(equal)}: "
            "their intervals leave the order open."
        )
    elif len(peers) > 1:
        yield f"The first-ranked {peers[0].candidate} is ahead of all others beyond error."
    if len(peers) > 1:
        yield (
            f"The first of {len(peers)} heads is partly first by luck: a discrepancy is chosen and "
            "reported on the same images, so the winner's is a little too high."
        )
    if any(row.state == "pruned" for row in rows):
        yield (
            "Pruned heads were last scored at an earlier rung, after less training: their figures "
            "do not compare with those of heads that stayed."
        )


def _trend(run: Run) -> Iterator[str]:
    y = "head_knn" if run.rungs["head_knn"].notna().any() else "head_linear"
    over_discrepancy = trend(run, "discrepancy", y)
    if over_discrepancy is None:
        return
    found = over_discrepancy.correlation
    tau, rho = (
        f"{signed(value)} [{signed(low)}, {signed(high)}]"
        for value, low, high in (found.kendall, found.spearman)
    )
    # Both: the interval and the permutation test disagree where a trend is barely there.
    shown = found.p < 0.05 and (found.kendall.low > 0 or found.kendall.high < 0)
    verdict = "the trend is unlikely to be chance" if shown else "no trend is shown"
    yield (
        f"Accuracy over discrepancy at rung {over_discrepancy.rung}, before pruning selects "
        f"({found.number} heads): Kendall's τ = {tau}, permutation p = {found.p:.2g}; "
        f"Spearman's ρ = {rho}: {verdict}."
    )


def _method(run: Run) -> str:
    measure = str(run.config.get("discrepancy", "cka"))
    return (
        f"Discrepancy is {MEASURES.get(measure, measure)} between the maps of base and head, "
        "teacher network, on the same held-out images (one image, one sample): 0 says the same, "
        "larger says more different; it has no unit. Intervals come from a jackknife over groups "
        "of images. Method: heterogeneous self-supervised learning (Li et al., TPAMI 2025, arXiv "
        "2310.05108), whose own discrepancy formula is not public: this one is this tool's choice."
    )


def _command(config: dict[str, Any]) -> str:
    """The command with every setting that its budget and the defaults do not already say."""
    preset = PRESETS.get(str(config.get("budget")), {})
    words = ["headsearch", "run"]
    for name, field in RunConfig.model_fields.items():
        value = config.get(name)
        said = name not in ("base", "space", "budget") and value == preset.get(name, field.default)
        if name != "out" and value is not None and not said:
            words += ["--" + name.replace("_", "-"), shlex.quote(str(value))]
    return printable(" ".join(words))  # in one line, which nothing can break out of


def _settings(run: Run) -> list[tuple[str, str]]:
    """The settings on one line each; the space's own contents stay in config.yaml."""
    return [
        (name, _setting(value))
        for name, value in run.config.items()
        if name not in ("versions", "space_content")
    ]


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_setting(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_setting(item) for item in value)
    return "–" if value is None else str(value)

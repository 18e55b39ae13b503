"""The texts of a report, without layout; the templates arrange them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headsearch.report.advice import advice
from headsearch.report.caveats import trust
from headsearch.report.dense import DenseSection, dense_section
from headsearch.report.explained import ExplainSection, explain_section
from headsearch.report.settings_list import command, settings_list
from headsearch.report.statistics.gains import verified
from headsearch.report.statistics.ranking import last_rung
from headsearch.report.tables import Table, baselines_table, ranking_legend, ranking_table
from headsearch.report.tasks import TaskSection, task_section
from headsearch.report.verification import VERIFIED_LEGEND, verdict, verified_table
from headsearch.runs.run import Run
from headsearch.text import counted, duration

MEASURES = {
    "cka": "1 − debiased linear CKA (Song et al. 2012; Nguyen et al. 2021)",
    "mutual_knn": "1 − the overlap of mutual nearest neighbours",
    "procrustes": "the angular Procrustes distance",
}


@dataclass(frozen=True)
class Content:
    """The texts of one report, not yet escaped for Markdown or HTML."""

    title: str
    summary: str
    advice: str
    ranking: Table
    legend: str
    verified: Table | None
    verdict: str
    verified_legend: str
    explained: ExplainSection | None
    baselines: Table | None
    dense: DenseSection | None
    tasks: TaskSection | None
    costs: list[tuple[str, str]]
    trust: list[str]
    method: str
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    command: str


def content(run: Run) -> Content:
    """The texts of the report of a run, finished or not."""
    solo_results = verified(run)
    return Content(
        title=f"Head search: {run.path.name}",
        summary=_summary(run),
        advice=advice(run),
        ranking=ranking_table(run),
        legend=_legend(run),
        verified=verified_table(run),
        verdict=verdict(solo_results) if solo_results is not None else "",
        verified_legend=VERIFIED_LEGEND,
        explained=explain_section(run),
        baselines=baselines_table(run),
        dense=dense_section(run),
        tasks=task_section(run),
        costs=list(_costs(run)),
        trust=list(trust(run)),
        method=_method(run),
        settings=settings_list(run),
        versions=[(name, str(v)) for name, v in sorted(run.config.get("versions", {}).items())],
        command=command(run.config),
    )


def _summary(run: Run) -> str:
    """One line below the title: candidates, base, data, objective, state of the run."""
    config, base = run.config, run.facts.get("base", {})
    words = run.words
    heads = len(run.ranking)
    parts = [counted(heads, "candidate head")]
    name = base.get("name", config.get("base"))
    if name:
        grid = base.get("grid")
        shape = f" ({base.get('dim')} wide, {grid[0]}×{grid[1]} map)" if grid else ""
        parts.append(f"on base {name}{shape}")
    if config.get("data"):
        images = run.facts.get("images")
        parts.append(
            f"data {config['data']}"
            + (f" ({counted(images, f'training {words.sample}')})" if images else "")
        )
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
    """The explanation below the ranking table."""
    labelled = run.facts.get("labelled") is not False
    accuracy = "Accuracies are those of the head's output. " if labelled else ""
    return (
        f"{ranking_legend(run)} {accuracy}Heads that were trained longer come first, collapsed and "
        "failed ones last. Brackets show 95% intervals."
    )


def _costs(run: Run) -> Iterator[tuple[str, str]]:
    """What the run cost, as names and values; values that were not recorded are left out."""
    facts, words = run.facts, run.words
    if facts.get("wall_s") is not None:
        scoring = facts.get("score_s")
        share = f", {duration(scoring)} of it scoring" if scoring is not None else ""
        yield "Wall time", duration(facts["wall_s"]) + share
    if facts.get("images_per_second") is not None:
        rate = f"{facts['images_per_second']:,.0f} {words.samples} a second"
        yield "Training throughput", rate
    if (waiting := facts.get("waiting_share")) is not None and waiting >= 0.01:
        advice = "; more cores, --workers or a smaller --store-size help" if waiting > 0.1 else ""
        yield f"Waiting for {words.samples}", f"{100 * waiting:.0f}% of the training time{advice}"
    if facts.get("steps") is not None:
        each = f" under each of {facts['seeds']} seeds" if facts.get("seeds", 1) > 1 else ""
        settled = facts.get("settled")
        steps = f"{settled['step']:,} of {facts['steps']:,}" if settled else f"{facts['steps']:,}"
        yield "Training steps", steps + each
    cost, solo = facts.get("cost_base_equivalents"), facts.get("solo_equivalents")
    if cost is not None:
        yield "Training compute", f"{cost:.2f} × pretraining the base alone"
    if solo is not None:
        saved = f" ({solo / cost:.1f} times as much)" if cost else ""
        yield "The same candidates, each alone", f"{solo:.2f} × pretraining the base alone{saved}"
    machine = [str(facts[key]) for key in ("device", "precision") if facts.get(key)]
    if facts.get("threads"):
        machine.append(counted(facts["threads"], "CPU thread"))
    if machine:
        yield "Machine", ", ".join(machine)
    if facts.get("machines"):
        yield (
            "Cohorts trained on",
            "; ".join(
                f"{host}: {', '.join(map(str, cohorts))}"
                for host, cohorts in sorted(facts["machines"].items())
            ),
        )
    space_size = facts.get("space_size")
    if space_size is not None:
        excluded = facts.get("excluded")
        more = f", {excluded} more excluded by constraints" if excluded else ""
        size = counted(space_size, "candidate")
        yield "Search space", f"{size}, {len(run.ranking)} tried{more}"


def _method(run: Run) -> str:
    """How discrepancy is measured."""
    measure = str(run.config.get("discrepancy", "cka"))
    words = run.words
    return (
        f"Discrepancy is {MEASURES.get(measure, measure)} between the token maps of base and head, "
        f"both of the teacher network, on the same held-out {words.samples} (one {words.sample} is "
        f"one sample). 0 means that both represent the {words.samples} alike; larger values mean a "
        "larger difference. It has no unit. Intervals come from a jackknife over groups of "
        f"{words.samples}. Method: heterogeneous self-supervised learning (Li et al., TPAMI 2025, "
        "arXiv 2310.05108). The paper's own discrepancy formula is not public; this one is "
        "headsearch's choice."
    )

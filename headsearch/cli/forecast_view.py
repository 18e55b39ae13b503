"""The output of `--dry-run`: candidates, cohorts and rungs of a search, its time and memory."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from headsearch.report import Table
from headsearch.report.console import print_table
from headsearch.runs.console import HarmlessConsole, loading_shown, say
from headsearch.study.profiling.forecast import Forecast, forecast
from headsearch.study.setup import SearchSetup
from headsearch.text import counted, duration

GB = 1e9


def show_forecast(setup: SearchSetup, console: Console) -> None:
    """Measures some steps of a search, and prints what it would do and take."""
    # On standard error, so that the output can be piped.
    with loading_shown(HarmlessConsole(stderr=True, highlight=False, markup=False)) as loading:
        loading("measuring a few steps")
        plan = forecast(setup)
    console.print()
    print_table(console, _candidate_table(plan))
    console.print()
    print_table(console, _rung_table(plan))
    console.print()
    for line in forecast_words(plan, setup):
        say(console, line)


def _candidate_table(plan: Forecast) -> Table:
    return Table(
        ["Candidate", "Cohort", "Params (M)", "GFLOPs", "ms a step", "of base", ""],
        [False, True, True, True, True, True, False],
        [
            [
                head.name,
                str(number),
                f"{head.params_m:.2f}",
                f"{head.gflops:.3f}",
                f"{1000 * plan.costs.heads[head.name].seconds:.1f}",
                f"{100 * plan.costs.heads[head.name].seconds / plan.costs.base:.0f} %",
                "control" if head.control else "",
            ]
            for number, cohort in enumerate(plan.cohorts, start=1)
            for head in cohort
        ],
        ["of base", "GFLOPs", "Params (M)", "Cohort"],
    )


def _rung_table(plan: Forecast) -> Table:
    which = " (each cohort)" if len(plan.sizes) > 1 else ""
    return Table(
        [f"Rung{which}", "Step", "Heads", "Time (about)"],
        [True] * 4,
        [
            [str(rung.rung), str(rung.step), str(rung.heads), duration(rung.seconds)]
            for rung in plan.rungs
        ],
    )


def forecast_words(plan: Forecast, setup: SearchSetup) -> Iterator[str]:
    """The lines below the tables: totals of time and memory, and what they were computed from."""
    costs, config = plan.costs, setup.config
    samples = setup.training.domain.words.samples
    unknown = plan.sizes[len(plan.cohorts) :]
    if unknown:
        cohorts = counted(len(unknown), "more cohort")
        yield (
            f"{counted(sum(unknown), 'candidate')} in {cohorts}, sampled by {config.sampler} after "
            "the cohorts before them are scored; assumed to cost the same"
        )
    elif len(plan.sizes) > 1:
        yield f"{len(plan.sizes)} cohorts of at most {counted(max(plan.sizes), 'head')}"
    yield f"time: {_time_words(plan)}; counted from the first step"
    if config.stop == "settled":
        yield "less if the order of the heads settles before the last rung (--stop settled)"
    yield (
        f"the base alone: about {duration(plan.base_alone)}; with each head alone, one run after "
        f"the other: about {duration(plan.one_by_one)}"
    )
    yield f"memory: about {plan.memory / GB:.1f} GB{_where(setup)}{_available(plan)}"
    if plan.fitting is not None:
        yield f"that may not fit into memory: try --cohort {max(1, plan.fitting)}"
    yield (
        f"measured here: {costs.measured} of {counted(len(costs.heads), 'head')}, the base "
        f"({1000 * costs.base:.0f} ms a step of {setup.batch} {samples}), a step's crops "
        f"({1000 * costs.crops:.0f} ms), scoring ({costs.score_base:.1f} s, and "
        f"{costs.score_head:.1f} s a head); other heads are estimated from their GFLOPs"
    )
    yield "a dry run: nothing is written"


def _time_words(plan: Forecast) -> str:
    bounds = f"{duration(plan.least)} to {duration(plan.most)}"
    if plan.sure:
        return f"about {duration(plan.seconds)} ({bounds}, depending on which heads stay)"
    return f"{bounds}, depending on which heads stay and how many"


def _where(setup: SearchSetup) -> str:
    if setup.training.device.type == "cpu":
        return ", this process included"
    return f" on {setup.training.device}"


def _available(plan: Forecast) -> str:
    free = plan.costs.free
    if free is None:
        return ""
    return f"; {(free + plan.costs.process) / GB:.1f} GB are available"

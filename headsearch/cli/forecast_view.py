"""What a person sees of a dry run: candidates, cohorts, rungs, time and memory."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from headsearch.report import Table
from headsearch.report.console import HarmlessConsole, print_table, say
from headsearch.study.profiling.forecast import Forecast, forecast
from headsearch.study.setup import SearchSetup
from headsearch.text import duration

GB = 1e9


def show_forecast(prepared: SearchSetup, console: Console) -> None:
    """Prints what a search would do and what it would take."""
    measuring = HarmlessConsole(stderr=True, highlight=False, markup=False)
    with measuring.status("measuring a few steps …"):
        found = forecast(prepared)
    console.print()
    print_table(console, _candidates(found))
    console.print()
    print_table(console, _rungs(found))
    console.print()
    for line in forecast_words(found, prepared):
        say(console, line)


def _candidates(found: Forecast) -> Table:
    return Table(
        ["Candidate", "Cohort", "Params (M)", "GFLOPs", "ms a step", "of base", ""],
        [False, True, True, True, True, True, False],
        [
            [
                head.name,
                str(number),
                f"{head.params_m:.2f}",
                f"{head.gflops:.3f}",
                f"{1000 * found.costs.heads[head.name].seconds:.1f}",
                f"{100 * found.costs.heads[head.name].seconds / found.costs.base:.0f} %",
                "control" if head.control else "",
            ]
            for number, cohort in enumerate(found.cohorts, start=1)
            for head in cohort
        ],
    )


def _rungs(found: Forecast) -> Table:
    which = " (each cohort)" if len(found.sizes) > 1 else ""
    return Table(
        [f"Rung{which}", "Step", "Heads", "About"],
        [True] * 4,
        [
            [str(rung.rung), str(rung.step), str(rung.heads), duration(rung.seconds)]
            for rung in found.rungs
        ],
    )


def forecast_words(found: Forecast, prepared: SearchSetup) -> Iterator[str]:
    """The sums, and what they rest on, a line each."""
    costs, config = found.costs, prepared.config
    unknown = found.sizes[len(found.cohorts) :]
    if unknown:
        cohorts = "one more cohort" if len(unknown) == 1 else f"{len(unknown)} more cohorts"
        yield (
            f"{sum(unknown)} candidates in {cohorts}, sampled by {config.sampler} once those "
            "before them are scored; taken to cost as much"
        )
    elif len(found.sizes) > 1:
        yield f"{len(found.sizes)} cohorts of {max(found.sizes)} heads at most"
    yield f"time: {_time(found)}, from the first step on"
    yield (
        f"the base alone: about {duration(found.base_alone)}; with every head in turn, one by "
        f"one: about {duration(found.one_by_one)}"
    )
    yield f"memory: about {found.memory / GB:.1f} GB{_where(prepared)}{_free(found)}"
    if found.fitting is not None:
        yield f"that may not fit: --cohort {max(1, found.fitting)} is about what does"
    yield (
        f"measured here: {costs.measured} of {len(costs.heads)} heads, the base "
        f"({1000 * costs.base:.0f} ms a step of {config.batch_size} images), a step's crops "
        f"({1000 * costs.crops:.0f} ms), scoring ({costs.score_base:.1f} s, and "
        f"{costs.score_head:.1f} s a head); others by their GFLOPs"
    )
    yield "a dry run: nothing is written"


def _time(found: Forecast) -> str:
    bounds = f"{duration(found.least)} to {duration(found.most)}"
    if found.sure:
        return f"about {duration(found.seconds)} ({bounds}, by which heads stay)"
    return f"{bounds}, by which heads stay and how many"


def _where(prepared: SearchSetup) -> str:
    return " with the process" if prepared.device.type == "cpu" else f" on {prepared.device}"


def _free(found: Forecast) -> str:
    free = found.costs.free
    return "" if free is None else f"; {(free + found.costs.process) / GB:.1f} GB are there for it"

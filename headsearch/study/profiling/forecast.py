"""Forecast of a search for `--dry-run`: its cohorts and rungs, their time and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from headsearch.config.settings import RunConfig
from headsearch.models.head_batches import head_batch_size
from headsearch.models.space import Candidate
from headsearch.study.profiling.costs import (
    Costs,
    HeadCost,
    measure_costs,
    snapshot_bytes,
    training_bytes,
)
from headsearch.study.profiling.step_profiler import Size
from headsearch.study.pruners import kept
from headsearch.study.setup import SearchSetup
from headsearch.training.head_timing import ALONE_S, ALONE_TIMES


@dataclass(frozen=True)
class PlannedRung:
    """A rung of a cohort.

    Attributes:
        rung: its number, from 0.
        step: how many steps are done when it is scored.
        heads: the largest number of heads that train toward it and are scored.
        seconds: of training toward it and of scoring it, under all seeds.
    """

    rung: int
    step: int
    heads: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What a search will do and take; times in seconds, memory in bytes.

    Attributes:
        cohorts: the candidates of the cohorts that are known before the search starts. Candidates
            of later cohorts may depend on scores.
        sizes: how many heads each cohort has, known or not.
        rungs: the rungs of the first cohort.
        seconds: of training and scoring, where the heads that stay cost the mean of all heads.
        least: the same where the cheapest heads stay (and as few as possible, see `sure`).
        most: the same where the dearest heads stay.
        sure: whether the number of heads that stay is known. It is not with Optuna's own pruners,
            which may prune none.
        base_alone: of pretraining the base without heads for as many steps.
        one_by_one: of pretraining the base with each head alone, one run after the other.
        memory: the peak of training, on its device; on a CPU with the process itself.
        costs: the costs that the forecast was computed from.
        fitting: how many heads of the largest cohort fit into the free memory; None if all do.
    """

    cohorts: list[list[Candidate]]
    sizes: list[int]
    rungs: list[PlannedRung]
    seconds: float
    least: float
    most: float
    sure: bool
    base_alone: float
    one_by_one: float
    memory: float
    costs: Costs
    fitting: int | None


def forecast(setup: SearchSetup) -> Forecast:
    """What a search will do and take, by the costs of a few steps, which are measured here.

    Writes nothing.
    """
    cohorts = setup.known_cohorts()
    costs = measure_costs(setup, [head for cohort in cohorts for head in cohort])
    return forecast_with(setup, cohorts, costs)


def forecast_with(setup: SearchSetup, cohorts: list[list[Candidate]], costs: Costs) -> Forecast:
    """What a search will do and take, by given costs of its parts.

    Args:
        setup: the search.
        cohorts: those that are known before it starts.
        costs: with a cost for each of their heads.
    """
    config = setup.config
    sizes = setup.cohort_sizes
    all_cohorts = [_cohort_costs(cohort, costs) for cohort in cohorts]
    # Candidates that are still to be sampled are assumed to cost the mean of the first cohort.
    typical = _mean(all_cohorts[0].contestants or all_cohorts[0].controls)
    all_cohorts += [_CohortCosts([], [typical] * size) for size in sizes[len(cohorts) :]]

    def seconds(total: _Total, *, fewest: bool = False) -> float:
        return sum(
            sum(_rung_seconds(setup, costs, cohort, total, fewest=fewest)) for cohort in all_cohorts
        )

    first = all_cohorts[0]
    rungs = [
        PlannedRung(rung, setup.training.rung_step(rung), count + len(first.controls), took)
        for rung, (count, took) in enumerate(
            zip(
                _contestants_at_rungs(len(first.contestants), config),
                _rung_seconds(setup, costs, first, _of_average),
                strict=True,
            )
        )
    ]
    return Forecast(
        cohorts=cohorts,
        sizes=sizes,
        rungs=rungs,
        seconds=seconds(_of_average),
        least=seconds(_of_cheapest, fewest=True),
        most=seconds(_of_dearest),
        sure=config.pruner in ("rung", "none"),
        base_alone=_solo_seconds(setup, costs, None),
        one_by_one=sum(
            _solo_seconds(setup, costs, head) for cohort in all_cohorts for head in cohort.heads
        ),
        memory=max(_memory(setup, costs, cohort.heads) for cohort in all_cohorts),
        costs=costs,
        fitting=_fitting(setup, costs, max(all_cohorts, key=lambda c: len(c.heads)).heads),
    )


@dataclass(frozen=True)
class _CohortCosts:
    """The costs of a cohort's heads: of controls, which are never pruned, and of contestants."""

    controls: list[HeadCost]
    contestants: list[HeadCost]

    @property
    def heads(self) -> list[HeadCost]:
        return [*self.controls, *self.contestants]


def _cohort_costs(cohort: Sequence[Candidate], costs: Costs) -> _CohortCosts:
    return _CohortCosts(
        [costs.heads[head.name] for head in cohort if head.control],
        [costs.heads[head.name] for head in cohort if not head.control],
    )


def _mean(heads: Sequence[HeadCost]) -> HeadCost:
    return HeadCost(
        fmean(head.seconds for head in heads),
        Size(fmean(head.size.params for head in heads), fmean(head.size.kept for head in heads)),
    )


_Total = Callable[[list[float], int], float]
"""Takes the seconds of each head and how many heads stay; returns the seconds of those that do."""


def _of_average(seconds: list[float], count: int) -> float:
    return sum(seconds) * count / max(1, len(seconds))


def _of_cheapest(seconds: list[float], count: int) -> float:
    return sum(sorted(seconds)[:count])


def _of_dearest(seconds: list[float], count: int) -> float:
    return sum(sorted(seconds, reverse=True)[:count])


def _contestants_at_rungs(count: int, config: RunConfig, *, fewest: bool = False) -> list[int]:
    """How many of `count` contestants are still scored at each of the rungs 0 … R.

    Args:
        count: contestants at the start.
        config: names the pruner and its settings.
        fewest: whether Optuna's own pruners, which cannot be foreseen, prune all that they may
            (True) or none (False).
    """
    counts = [count]
    for _ in range(config.rungs):
        counts.append(count)
        if config.pruner == "rung":
            count = min(count, kept(count, config.eta, config.min_keep))
        elif config.pruner != "none" and fewest:
            count = min(count, config.min_keep)
    return counts


def _rung_seconds(
    setup: SearchSetup, costs: Costs, cohort: _CohortCosts, total: _Total, *, fewest: bool = False
) -> list[float]:
    """Seconds of each rung of a cohort, training and scoring, under all seeds."""
    config = setup.config
    of_controls = sum(head.seconds for head in cohort.controls)
    of_contestants = [head.seconds for head in cohort.contestants]
    typical = _mean(cohort.contestants or cohort.controls).size
    rungs = []
    counts = _contestants_at_rungs(len(of_contestants), config, fewest=fewest)
    for rung, count in enumerate(counts):
        steps = setup.training.rung_step(rung) - setup.training.rung_step(rung - 1)
        live = count + len(cohort.controls)
        # With `share`, heads see more images as others leave, and take longer in proportion.
        images = head_batch_size(config.images_per_head, setup.batch, live)
        heads_s = (of_controls + total(of_contestants, count)) * images / costs.images
        step_s = costs.crops + costs.base + heads_s
        scoring_s = costs.score_base + live * costs.score_head
        sizes = [*(head.size for head in cohort.controls), *[typical] * count]
        written = snapshot_bytes(setup.training.objective, costs.base_size, sizes, config.seeds)
        seconds = config.seeds * (steps * step_s + scoring_s)
        rungs.append(seconds + written * costs.write_byte)
    # Each head is timed alone as it enters, on all images of a step.
    rungs[0] += sum(
        _head_timing_seconds(head.seconds * setup.batch / costs.images)
        for head in (*cohort.controls, *cohort.contestants)
    )
    return rungs


def _head_timing_seconds(seconds: float) -> float:
    """Seconds that `head_step_ms` takes to time a head that adds this many to a step."""
    return min(ALONE_TIMES * seconds, max(ALONE_S, seconds))


def _solo_seconds(setup: SearchSetup, costs: Costs, head: HeadCost | None) -> float:
    """Seconds of pretraining the base with one head or with none, under all seeds."""
    config = setup.config
    head_s, score_head = (head.seconds, costs.score_head) if head is not None else (0.0, 0.0)
    sizes = [head.size] if head is not None else []
    written = snapshot_bytes(setup.training.objective, costs.base_size, sizes)
    step_s = costs.crops + costs.base + head_s * setup.batch / costs.images
    scoring_s = (config.rungs + 1) * (costs.score_base + score_head)
    written_s = config.rungs * written * costs.write_byte  # no snapshot after the last rung
    return config.seeds * (setup.training.steps * step_s + scoring_s + written_s)


def _memory(setup: SearchSetup, costs: Costs, heads: Sequence[HeadCost]) -> float:
    """Bytes that a cohort of these heads takes at its peak."""
    objective, seeds = setup.training.objective, setup.config.seeds
    images = head_batch_size(setup.config.images_per_head, setup.batch, len(heads))
    sizes = [head.size.seeing(images / setup.batch) for head in heads]
    peak = training_bytes(objective, costs.base_size, sizes, seeds)
    if (
        setup.training.device.type == "cpu"
    ):  # on an accelerator, a snapshot is copied to the host's memory
        peak = max(peak, 2 * snapshot_bytes(objective, costs.base_size, sizes, seeds))
    return costs.process + peak


def _fitting(setup: SearchSetup, costs: Costs, heads: Sequence[HeadCost]) -> int | None:
    """How many of these heads fit into the free memory; None if all do, or if it is unknown."""
    if costs.free is None:
        return None
    available = costs.process + costs.free
    counts = range(len(heads), 0, -1)
    most = next((n for n in counts if _memory(setup, costs, heads[:n]) <= available), 0)
    return None if most == len(heads) else most

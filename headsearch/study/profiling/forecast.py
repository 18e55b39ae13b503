"""What a search is going to do, and what that will take here: the plan of a dry run."""

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
        step: how many steps are done when it is scored.
        heads: that train toward it and are scored, at most.
        seconds: of training toward it and scoring it, under all seeds.
    """

    rung: int
    step: int
    heads: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """A search before it begins; times in seconds, memory in bytes.

    Attributes:
        cohorts: the candidates of those cohorts that are known; others depend on scores.
        sizes: how many heads each cohort has.
        rungs: those of the first cohort.
        seconds: of training and scoring; the heads that stay cost what all do on average.
        least, most: where the cheapest stay, and where the dearest do.
        sure: whether how many stay is known: not with Optuna's own pruners, which may prune none.
        base_alone: of the base without heads, as long.
        one_by_one: of the base with each head alone, one after the other.
        memory: at most, where training takes it; with the process on a CPU.
        costs: what it was computed from.
        fitting: of the largest cohort's heads, how many would do with the memory that is free;
            None where all do.
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


def forecast(prepared: SearchSetup) -> Forecast:
    """What a search is going to do. Trains some steps to measure them; leaves nothing behind."""
    cohorts = prepared.known_cohorts()
    costs = measure_costs(prepared, [head for cohort in cohorts for head in cohort])
    return forecast_with(prepared, cohorts, costs)


def forecast_with(prepared: SearchSetup, cohorts: list[list[Candidate]], costs: Costs) -> Forecast:
    """What a search is going to do, given what its parts take."""
    config = prepared.config
    sizes = prepared.cohort_sizes
    all_cohorts = [_cost_of(cohort, costs) for cohort in cohorts]
    # What is still to be sampled is taken to be like what was.
    usual = _mean(all_cohorts[0].contestants or all_cohorts[0].controls)
    all_cohorts += [_Cohort([], [usual] * size) for size in sizes[len(cohorts) :]]

    def seconds(total: _Total, *, fewest: bool = False) -> float:
        return sum(
            sum(_seconds(prepared, costs, cohort, total, fewest=fewest)) for cohort in all_cohorts
        )

    first = all_cohorts[0]
    rungs = [
        PlannedRung(rung, prepared.rung_step(rung), count + len(first.controls), took)
        for rung, (count, took) in enumerate(
            zip(
                _contestants(len(first.contestants), config),
                _seconds(prepared, costs, first, _on_average),
                strict=True,
            )
        )
    ]
    return Forecast(
        cohorts=cohorts,
        sizes=sizes,
        rungs=rungs,
        seconds=seconds(_on_average),
        least=seconds(_cheapest, fewest=True),
        most=seconds(_dearest),
        sure=config.pruner in ("rung", "none"),
        base_alone=_alone(prepared, costs, None),
        one_by_one=sum(
            _alone(prepared, costs, head) for cohort in all_cohorts for head in cohort.heads
        ),
        memory=max(_memory(prepared, costs, cohort.heads) for cohort in all_cohorts),
        costs=costs,
        fitting=_fitting(prepared, costs, max(all_cohorts, key=lambda c: len(c.heads)).heads),
    )


@dataclass(frozen=True)
class _Cohort:
    """What the heads of a cohort cost."""

    controls: list[HeadCost]
    contestants: list[HeadCost]

    @property
    def heads(self) -> list[HeadCost]:
        return [*self.controls, *self.contestants]


def _cost_of(cohort: Sequence[Candidate], costs: Costs) -> _Cohort:
    return _Cohort(
        [costs.heads[head.name] for head in cohort if head.control],
        [costs.heads[head.name] for head in cohort if not head.control],
    )


def _mean(heads: Sequence[HeadCost]) -> HeadCost:
    return HeadCost(
        fmean(head.seconds for head in heads),
        Size(fmean(head.size.params for head in heads), fmean(head.size.kept for head in heads)),
    )


_Total = Callable[[list[float], int], float]
"""Of what each head takes, what so many of them take together."""


def _on_average(seconds: list[float], count: int) -> float:
    return sum(seconds) * count / max(1, len(seconds))


def _cheapest(seconds: list[float], count: int) -> float:
    return sum(sorted(seconds)[:count])


def _dearest(seconds: list[float], count: int) -> float:
    return sum(sorted(seconds, reverse=True)[:count])


def _contestants(count: int, config: RunConfig, *, fewest: bool = False) -> list[int]:
    """How many heads that can be pruned are scored at each rung 0 … R, of so many at first.

    Args:
        fewest: of Optuna's own pruners, of which nobody knows, whether they prune all they may.
    """
    counts = [count]
    for _ in range(config.rungs):
        counts.append(count)
        if config.pruner == "rung":
            count = min(count, kept(count, config.eta, config.min_keep))
        elif config.pruner != "none" and fewest:
            count = min(count, config.min_keep)
    return counts


def _seconds(
    prepared: SearchSetup, costs: Costs, cohort: _Cohort, total: _Total, *, fewest: bool = False
) -> list[float]:
    """Seconds of each rung of a cohort, training and scoring, under all seeds."""
    config = prepared.config
    of_controls = sum(head.seconds for head in cohort.controls)
    each = [head.seconds for head in cohort.contestants]
    usual = _mean(cohort.contestants or cohort.controls).size
    found = []
    for rung, count in enumerate(_contestants(len(each), config, fewest=fewest)):
        steps = prepared.rung_step(rung) - prepared.rung_step(rung - 1)
        live = count + len(cohort.controls)
        images = head_batch_size(config.images_per_head, prepared.batch, live)
        of_heads = (of_controls + total(each, count)) * images / costs.images
        step_s = costs.crops + costs.base + of_heads
        scoring_s = costs.score_base + live * costs.score_head
        sizes = [*(head.size for head in cohort.controls), *[usual] * count]
        written = snapshot_bytes(prepared.objective, costs.base_size, sizes, config.seeds)
        seconds = config.seeds * (steps * step_s + scoring_s)
        found.append(seconds + written * costs.write_byte)
    found[0] += sum(
        _timed_alone(head.seconds * prepared.batch / costs.images)
        for head in (*cohort.controls, *cohort.contestants)
    )
    return found


def _timed_alone(seconds: float) -> float:
    """What it takes to time a head of so many seconds a step when it enters a search."""
    return min(ALONE_TIMES * seconds, max(ALONE_S, seconds))


def _alone(prepared: SearchSetup, costs: Costs, head: HeadCost | None) -> float:
    """Seconds of pretraining the base with one head or with none, under all seeds."""
    config = prepared.config
    of_head, score_head = (head.seconds, costs.score_head) if head is not None else (0.0, 0.0)
    sizes = [head.size] if head is not None else []
    written = snapshot_bytes(prepared.objective, costs.base_size, sizes)
    step_s = costs.crops + costs.base + of_head * prepared.batch / costs.images
    scoring_s = (config.rungs + 1) * (costs.score_base + score_head)
    written_s = config.rungs * written * costs.write_byte  # none after the last rung
    return config.seeds * (prepared.steps * step_s + scoring_s + written_s)


def _memory(prepared: SearchSetup, costs: Costs, heads: Sequence[HeadCost]) -> float:
    """Bytes that a cohort takes at most."""
    config = prepared.config
    shown = head_batch_size(config.images_per_head, prepared.batch, len(heads)) / prepared.batch
    sizes, seeds = [head.size.seeing(shown) for head in heads], config.seeds
    of = (prepared.objective, costs.base_size, sizes, seeds)
    training = training_bytes(*of)
    if prepared.device.type == "cpu":  # else snapshots are copied to where there is room
        training = max(training, 2 * snapshot_bytes(*of))
    return costs.process + training


def _fitting(prepared: SearchSetup, costs: Costs, heads: Sequence[HeadCost]) -> int | None:
    """How many of these heads fit into the memory that is free; None where all do."""
    if costs.free is None:
        return None
    room = costs.process + costs.free
    counts = (n for n in range(len(heads), 0, -1) if _memory(prepared, costs, heads[:n]) <= room)
    found = next(counts, 0)
    return None if found == len(heads) else found

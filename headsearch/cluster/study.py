"""What the driver reports to the run's Optuna study: results of cohorts, and decisions at rungs.

With `--prune-among all`, a rung is decided over all cohorts of a generation, as if these were one
cohort. Each cohort trains as one task from rung to rung. Once all have come to a rung, their scores
are in the study; the pruner is asked there about all of their heads, and the answers are kept with
the trials. So a driver that dies decides nothing twice, and what it decides depends neither on the
number of workers nor on who came first. A cohort that was set aside, and is tried again after the
others went on, is compared with what they had at that rung; what was decided about them stands.

With coupling `observe`, no head influences the base or another head, so every cohort trains the
same base. Tables and fates are then bit for bit those of one cohort of all heads, apart from the
numbers of cohorts and the order of rows. With `joint`, bases differ, and only heads of one cohort
can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from headsearch.cluster.engine import Message
from headsearch.cluster.merge import renumbered
from headsearch.study.pruners import GENERATION, is_control
from headsearch.study.rung_decisions import why_pruned
from headsearch.study.trials import Trials, decision_at


def tell_result(trials: Trials, heads: Sequence[Message], result: Message, first: int) -> None:
    """Reports the trials of a cohort to the study: scores, and once each how those have ended.

    Args:
        trials: the trials of the run.
        heads: the cohort's candidates in the plan.
        result: its result, or what it has come to at a rung.
        first: the number of cohorts before it.
    """
    study, numbers = trials.study, {head["name"]: head["trial"] for head in heads}
    known = study.get_trials(deepcopy=False)
    for record in result["trials"]:
        found = known[numbers[record["attrs"]["candidate"]]]
        if found.state.is_finished():
            continue
        trial = optuna.Trial(study, found._trial_id)
        for rung, score in sorted(record["intermediate"].items(), key=lambda each: int(each[0])):
            if int(rung) not in found.intermediate_values:
                trial.report(score, int(rung))
        for key, value in renumbered([record["attrs"]], first)[0].items():
            if found.user_attrs.get(key) != value:
                trial.set_user_attr(key, value)
        state = TrialState[record["state"]]
        if state.is_finished():
            study.tell(trial, record["value"] if state == TrialState.COMPLETE else None, state)


def decide(trials: Trials, cohorts: Sequence[Sequence[Message]], rung: int) -> None:
    """Asks the pruner about all heads whose last score is that of a rung.

    Args:
        trials: the trials of the run; the scores of all cohorts at this rung are reported.
        cohorts: the candidates of each cohort in the plan.
        rung: the rung.
    """
    known = trials.study.get_trials(deepcopy=False)
    numbers = [head["trial"] for heads in cohorts for head in heads]
    trials.pruned(
        (n for n in numbers if not known[n].state.is_finished() and known[n].last_step == rung),
        rung,
    )


def decided_until(
    trials: Trials, heads: Sequence[Message], last: int
) -> Mapping[str, Mapping[str, str]]:
    """The heads of a cohort that leave at each rung up to `last`, with the reason, as JSON data."""
    return {str(rung): _pruned_at(trials, heads, rung) for rung in range(1, last + 1)}


def _pruned_at(trials: Trials, heads: Sequence[Message], rung: int) -> dict[str, str]:
    known, key = trials.study.get_trials(deepcopy=False), decision_at(rung)
    generation: Any = known[heads[0]["trial"]].user_attrs.get(GENERATION)
    competing = [
        trial
        for trial in known
        if key in trial.user_attrs
        and trial.user_attrs.get(GENERATION) == generation
        and not is_control(trial)
    ]
    pruned = {trial.number for trial in competing if trial.user_attrs[key]}
    reason = why_pruned("rung", rung, pruned, len(competing))
    return {head["name"]: reason for head in heads if head["trial"] in pruned}

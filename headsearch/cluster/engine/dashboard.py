"""Heads that train on many machines, shown in one Optuna study for a dashboard to draw.

A trial a head and attempt: it runs while the head trains, and is told how it ended. This is for the
eye alone: what counts is in the tasks, so nothing here may stop a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from headsearch.cluster.engine.queue import Claim

TOKEN = "claim"


class Mirror:
    """The trials of a claimed cohort in the study that is watched.

    Args:
        storage: where it is.
        study: the storage's name of it.
        claim: the cohort.
        heads: each head's name, parameters and their distributions, and whether it is a control.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study: int,
        claim: Claim,
        heads: Sequence[tuple[str, Mapping[str, Any], Mapping[str, BaseDistribution], bool]],
    ) -> None:
        self._storage, self._trials = storage, dict[str, int]()
        for name, params, distributions, control in heads:
            trial = create_trial(
                state=TrialState.RUNNING,
                params=dict(params),
                distributions=dict(distributions),
                user_attrs={
                    "candidate": name, "control": control, "task": claim.task.key,
                    "worker": claim.worker, "attempt": claim.attempt, TOKEN: claim.token,
                },
            )  # fmt: skip
            with suppress(Exception):
                self._trials[name] = storage.create_new_trial(study, trial)

    def report(self, scores: Mapping[str, float], rung: int) -> None:
        """Shows the scores of a rung."""
        for name, score in scores.items():
            self._say(name, self._storage.set_trial_intermediate_value, rung, score)

    def end(self, name: str, state: TrialState, value: float | None, reason: str) -> None:
        """Shows how a head ended."""
        if reason:
            self._say(name, self._storage.set_trial_user_attr, "reason", reason)
        values = [value] if value is not None else None
        self._say(name, self._storage.set_trial_state_values, state, values)

    def give_up(self, reason: str) -> None:
        """Shows that the attempt came to nothing."""
        for name in list(self._trials):
            self.end(name, TrialState.FAIL, None, reason)

    def _say(self, name: str, call: Callable[..., object], *what: object) -> None:
        if name in self._trials:
            with suppress(Exception):
                call(self._trials[name], *what)


def sweep(storage: BaseStorage, study: int, active: Callable[[], set[str]]) -> None:
    """Ends the trials of attempts that nobody works at any more.

    Args:
        active: the tokens of the claims that are held, as of later than the trials: those of a
            claim come after it.
    """
    with suppress(Exception):
        running = storage.get_all_trials(study, deepcopy=False, states=(TrialState.RUNNING,))
        held = active()
        for trial in running:
            if trial.user_attrs.get(TOKEN) in held:
                continue
            with suppress(UpdateFinishedTrialError):
                reason = f"{trial.user_attrs.get('worker', 'its worker')} gave it up"
                storage.set_trial_user_attr(trial._trial_id, "reason", reason)
                storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

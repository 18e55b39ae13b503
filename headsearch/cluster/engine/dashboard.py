"""Mirrors heads that train on many machines into one Optuna study, for optuna-dashboard.

There is one trial per head and attempt; it is RUNNING while the head trains. The study is for
display only, and results are in the task queue, so errors here never stop a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from headsearch.cluster.engine.claims import Claim

TOKEN = "claim"


class Mirror:
    """The trials of a claimed cohort in the displayed study.

    Args:
        storage: the Optuna storage of the study.
        study: the storage's id of the study.
        claim: the claim on the cohort.
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
        """Reports the scores of a rung."""
        for name, score in scores.items():
            self._try_to(name, self._storage.set_trial_intermediate_value, rung, score)

    def end(self, name: str, state: TrialState, value: float | None, reason: str) -> None:
        """Ends the trial of a head."""
        if reason:
            self._try_to(name, self._storage.set_trial_user_attr, "reason", reason)
        values = [value] if value is not None else None
        self._try_to(name, self._storage.set_trial_state_values, state, values)

    def give_up(self, reason: str) -> None:
        """Ends all trials as failed, because the attempt was given up."""
        for name in list(self._trials):
            self.end(name, TrialState.FAIL, None, reason)

    def _try_to(self, name: str, call: Callable[..., object], *what: object) -> None:
        if name in self._trials:
            with suppress(Exception):
                call(self._trials[name], *what)


def sweep(storage: BaseStorage, study: int, active: Callable[[], set[str]]) -> None:
    """Ends the displayed trials of attempts that no worker runs any more.

    Args:
        storage: the Optuna storage of the study.
        study: the storage's id of the study.
        active: returns the tokens of the claims that are held. It is called after the trials are
            read: a claim precedes its trials, so the claim of every trial read is known by then.
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

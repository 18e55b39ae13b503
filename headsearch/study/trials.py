"""The Optuna study of a run: one trial for each candidate, with its scores and final state.

Every report here may be repeated. A run that resumes, or goes back to an earlier rung, repeats the
reports that it made since then; the study keeps the first of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.models.space import Candidate, ResolvedSpace
from headsearch.runs.run import storage_of
from headsearch.runs.storage import STORAGE_ERRORS, is_locked, reason_of
from headsearch.study.leaderboard import Entry
from headsearch.study.pruners import make_pruner

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "collapsed": TrialState.FAIL,
    "failed": TrialState.FAIL,
}
"""Optuna's name for each state in which a head can end."""


class Trials:
    """The trials of a run, by their numbers.

    Args:
        run_directory: where the study is stored, unless the settings name another storage.
        config: the settings that the pruner is made from.
        settings: the content of config.yaml, which names the study and its storage.
        begun: whether the study must exist already; if not, it is created when missing.

    Attributes:
        study: the Optuna study.

    Raises:
        UserError: the study cannot be opened.
    """

    def __init__(
        self, run_directory: Path, config: RunConfig, settings: Mapping[str, Any], *, begun: bool
    ) -> None:
        name = settings["study_name"]
        pruner = make_pruner(
            config.pruner,
            eta=config.eta,
            min_keep=config.min_keep,
            rungs=config.rungs,
            among=config.prune_among,
        )
        try:
            if begun:  # first without writing: the storage may not be that of the run any more
                found = storage_of(run_directory, settings, create=False)
                optuna.load_study(study_name=name, storage=found)
            self.study = optuna.create_study(
                study_name=name,
                storage=storage_of(run_directory, settings, create=True),
                pruner=pruner,
                direction="maximize",
                load_if_exists=True,
            )
        except (KeyError, ValueError, RuntimeError, *STORAGE_ERRORS) as error:
            if isinstance(error, UserError) and settings.get("storage"):
                raise  # names the storage
            raise UserError(_cannot_open(run_directory, error)) from None

    def candidates(self, space: ResolvedSpace) -> dict[int, Candidate]:
        """The candidates that were asked for so far, by trial number."""
        return {
            trial.number: space.suggest(trial)
            for trial in self.study.get_trials(deepcopy=False)
            if "cohort" in trial.user_attrs
        }

    def report(self, scores: Mapping[int, float], rung: int) -> None:
        """Reports the scores of a rung.

        Trials that have ended, or have a score at this rung already, are left as they are.

        Args:
            scores: scores by trial number.
            rung: the rung.
        """
        known = self.study.get_trials(deepcopy=False)
        for number, score in scores.items():
            trial = known[number]
            if rung not in trial.intermediate_values and not trial.state.is_finished():
                self._trial(number).report(score, rung)

    def pruned(self, numbers: Iterable[int], rung: int) -> set[int]:
        """The trials that the pruner prunes at a rung; all of them must have reported their score.

        The pruner is asked only once about each trial and rung, and the answer is stored: some of
        Optuna's pruners keep state, and would answer differently the second time.
        """
        key, pruned = decision_at(rung), set()
        for number in numbers:
            trial = self._trial(number)
            if key not in trial.user_attrs:
                trial.set_user_attr(key, trial.should_prune())
            if trial.user_attrs[key]:
                pruned.add(number)
        return pruned

    def group(self, cohorts: Mapping[int, int]) -> None:
        """Records the cohort of each trial, if it has changed and the trial has not ended.

        The rung pruner compares a trial with others of its cohort.

        Args:
            cohorts: the index of the cohort by trial number.
        """
        known = self.study.get_trials(deepcopy=False)
        for number, cohort in cohorts.items():
            trial = known[number]
            if trial.user_attrs["cohort"] != cohort and not trial.state.is_finished():
                self._trial(number).set_user_attr("cohort", cohort)

    def tell(self, entries: Iterable[Entry]) -> None:
        """Reports how heads have ended, once for each. Optuna cannot take this back."""
        news = [entry for entry in entries if entry.ended and not entry.told]
        known = self.study.get_trials(deepcopy=False) if news else []
        for entry in news:
            entry.told = True
            if known[entry.trial].state.is_finished():  # an earlier process reported it
                continue
            trial, row = self._trial(entry.trial), entry.row()
            for key in ("discrepancy", "head_knn", "head_linear", "reason"):
                if row[key] == row[key] and row[key] != "":
                    trial.set_user_attr(key, row[key])
            state = STATES[entry.state]
            value = entry.score if state == TrialState.COMPLETE else None
            self.study.tell(trial, value, state)

    def note(self, facts: Mapping[str, Any]) -> None:
        """Stores what the run records about itself in the study."""
        self.study.set_user_attr("facts", dict(facts))

    def _trial(self, number: int) -> optuna.Trial:
        # The storage remembers the ids; the trials themselves it would read anew, all of them.
        storage, study = self.study._storage, self.study._study_id
        return optuna.Trial(
            self.study, storage.get_trial_id_from_study_id_trial_number(study, number)
        )


def decision_at(rung: int) -> str:
    """The attribute of a trial that says whether the pruner pruned it at a rung."""
    return f"pruned_at_{rung}"


def _cannot_open(run_directory: Path, error: Exception) -> str:
    """Why the study of a run cannot be opened, and what to do."""
    if is_locked(error):
        return (
            f"{run_directory}: its study is locked by another process: wait until that has ended, "
            f"then headsearch resume {run_directory}"
        )
    # A ValueError, a KeyError or a RuntimeError if the file is damaged or a later Optuna made it.
    return f"{run_directory}: its study cannot be opened ({reason_of(error)}): search again"

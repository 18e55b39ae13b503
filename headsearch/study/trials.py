"""The Optuna study of a run: a trial a candidate, told its scores and how it ended.

Everything here may be said twice: a run that goes on after an interruption, or goes back in its
training, repeats what it said since then, and the study keeps what it heard first.
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
from headsearch.runs.storage import STORAGE_ERRORS
from headsearch.study.leaderboard import Entry
from headsearch.study.pruners import make_pruner

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "collapsed": TrialState.FAIL,
    "failed": TrialState.FAIL,
}
"""What Optuna calls the states in which a head may end."""


class Trials:
    """The trials of a run, by their numbers.

    Args:
        run_directory: where the study lies, unless the settings name a storage.
        config: the pruner is taken from it.
        settings: of config.yaml: the name and the place of the study.
        begun: whether the study must be there already.

    Attributes:
        study: Optuna's own.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(
        self, run_directory: Path, config: RunConfig, settings: Mapping[str, Any], *, begun: bool
    ) -> None:
        name, storage = settings["study_name"], storage_of(run_directory, settings)
        pruner = make_pruner(
            config.pruner, eta=config.eta, min_keep=config.min_keep, rungs=config.rungs
        )
        try:
            if begun:
                self.study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
            else:
                self.study = optuna.create_study(
                    study_name=name,
                    storage=storage,
                    pruner=pruner,
                    direction="maximize",
                    load_if_exists=True,
                )
        except (KeyError, RuntimeError, *STORAGE_ERRORS) as error:  # or a later Optuna made it
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{run_directory}: its study cannot be opened ({reason}): search again"
            ) from None

    def candidates(self, space: ResolvedSpace) -> dict[int, Candidate]:
        """The candidates that were asked for so far."""
        return {
            trial.number: space.suggest(trial)
            for trial in self.study.get_trials(deepcopy=False)
            if "cohort" in trial.user_attrs
        }

    def report(self, scores: Mapping[int, float], rung: int) -> None:
        """Reports the scores of a rung, but for trials that have one of it or have ended."""
        known = self.study.get_trials(deepcopy=False)
        for number, score in scores.items():
            trial = known[number]
            if rung not in trial.intermediate_values and not trial.state.is_finished():
                self._trial(number).report(score, rung)

    def pruned(self, numbers: Iterable[int], rung: int) -> set[int]:
        """Which of the trials the pruner lets go at a rung; all have reported it.

        It is asked once about each: some of Optuna's remember that they were, and would answer
        otherwise.
        """
        key, found = f"pruned_at_{rung}", set()
        for number in numbers:
            trial = self._trial(number)
            if key not in trial.user_attrs:
                trial.set_user_attr(key, trial.should_prune())
            if trial.user_attrs[key]:
                found.add(number)
        return found

    def group(self, cohorts: Mapping[int, int]) -> None:
        """Says which cohort trials are in, where that has changed; ended ones are left alone."""
        known = self.study.get_trials(deepcopy=False)
        for number, cohort in cohorts.items():
            trial = known[number]
            if trial.user_attrs["cohort"] != cohort and not trial.state.is_finished():
                self._trial(number).set_user_attr("cohort", cohort)

    def tell(self, entries: Iterable[Entry]) -> None:
        """Tells how heads have ended, which cannot be taken back."""
        known = self.study.get_trials(deepcopy=False)
        for entry in entries:
            if not entry.ended or entry.told:
                continue
            entry.told = True
            if known[entry.trial].state.is_finished():
                continue
            trial, row = self._trial(entry.trial), entry.row()
            for key in ("discrepancy", "head_knn", "head_linear", "reason"):
                if row[key] == row[key] and row[key] != "":
                    trial.set_user_attr(key, row[key])
            state = STATES[entry.state]
            value = entry.score if state == TrialState.COMPLETE else None
            self.study.tell(trial, value, state)

    def note(self, facts: Mapping[str, Any]) -> None:
        """Keeps what the run says about itself."""
        self.study.set_user_attr("facts", dict(facts))

    def _trial(self, number: int) -> optuna.Trial:
        known = self.study.get_trials(deepcopy=False)
        return optuna.Trial(self.study, known[number]._trial_id)

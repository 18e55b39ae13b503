"""Resuming a search: its setup as it began, from the run directory and its last snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headsearch.config.setting_groups import of_older_runs
from headsearch.errors import UserError
from headsearch.models.space import recorded_space
from headsearch.runs import same_settings
from headsearch.runs.console import Loading, silently
from headsearch.runs.run import Run
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.environment import resolve_here
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs, check_inputs


def resumed_search(
    run: Run,
    inputs: InMemoryInputs = NO_INPUTS,
    flags: Mapping[str, Any] | None = None,
    *,
    start_over: bool = False,
) -> Search:
    """The search that resumes this run from its last snapshot; see `prepared_again`, `Search`."""
    return Search(prepared_again(run, inputs, flags), run.path, start_over=start_over)


def prepared_again(
    run: Run,
    inputs: InMemoryInputs = NO_INPUTS,
    flags: Mapping[str, Any] | None = None,
    loading: Loading = silently,
) -> SearchSetup:
    """The setup that this run needs to be resumed; `flags` change some of its settings.

    `loading` is told what is being loaded.

    Raises:
        UserError: an object that the search was started with in Python is missing among `inputs`,
            or something that decides its results has changed.
    """
    flags, content = flags or {}, run.config.get("space_content")
    of_python = "space" in run.config.get("given", []) and inputs.space is None
    if of_python and "space" not in flags and content is not None:
        inputs = replace(inputs, space=recorded_space(content, run.config["space"]))
    check_inputs(run.path, run.config, inputs, "resume")
    if run.config.get("fleet"):
        raise UserError(
            f"{run.path} was collected from workers and cannot be resumed: collect it again"
        )
    if run.facts.get("diverged"):
        raise UserError(f"{run.path}: its base diverged; search again with a lower --lr")
    config = resolve_here(flags, run.path / "config.yaml")
    if "study_name" in run.config:  # as it began, also if the file of its weights has moved
        normalization = run.config.get("normalization", of_older_runs(None)["normalization"])
        config = config.model_copy(update={"normalization": normalization})
    # Before the data are opened, which may fail because of such a change.
    recorded, now = run.facts.get("settings"), config.model_dump(mode="json")
    same_settings.check_as_recorded(run.path, recorded, now)
    return prepare(config, loading, inputs)

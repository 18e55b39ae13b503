"""A search from its settings to its end: shown, stopped by signals, resumed.

The Python API and the command line both search through `run_search` and `resume_search`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from headsearch import torchrun
from headsearch.data.image.skipped import listed_where_too_many
from headsearch.report.session import carry_out, introduce, quiet_optuna, take_part
from headsearch.report.tensorboard import curves_written
from headsearch.runs.run import Run
from headsearch.study.display import points_of, shown
from headsearch.study.events import Event
from headsearch.study.followers import follow
from headsearch.study.search import Search, prepared_again
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.environment import resolve_here
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs


def run_search(
    flags: Mapping[str, Any],
    config_file: Path | None = None,
    *,
    inputs: InMemoryInputs = NO_INPUTS,
    directory: Path | None = None,
    console: Console | None = None,
) -> tuple[Path, int]:
    """Searches with settings as the command line has them.

    Args:
        flags: settings by name; they win over the file's.
        config_file: a YAML file of settings.
        inputs: objects that a Python caller passes in place of names.
        directory: one that was claimed for this search (`runs.directory.claimed`).
        console: where progress is shown; None for nowhere.

    Returns:
        The run directory, and the number of the signal that stopped the search; 0 where it came to
        its end.

    Raises:
        UserError: a setting, the space or the data cannot be used, or the base diverged.
        InterruptedAtOnceError: at a second Ctrl-C.
    """
    config = resolve_here(flags, config_file)
    if directory is not None or not torchrun.first():
        # The directory is there: claimed for this search, or by the first process of the job.
        config = config.model_copy(update={"out": None})
    with quiet_optuna():
        return _searched(lambda: prepare(config, inputs=inputs), directory, console)


def resume_search(
    run: Run,
    *,
    inputs: InMemoryInputs = NO_INPUTS,
    log: str | None = None,
    console: Console | None = None,
) -> tuple[Path, int]:
    """Resumes a search that has not ended; returns and raises as `run_search`."""
    with quiet_optuna():
        return _searched(
            lambda: prepared_again(run, inputs, {} if log is None else {"log": log}),
            run.path,
            console,
        )


def _searched(
    prepare_search: Callable[[], SearchSetup], directory: Path | None, console: Console | None
) -> tuple[Path, int]:
    """Runs a search to its end or to a stop; in all but the first process of a job, takes part."""
    if not torchrun.first():
        return take_part(lambda: follow(prepare_search())), 0
    with listed_where_too_many(directory) if directory is not None else nullcontext():
        running = Search(prepare_search(), directory)
    running.prepared.data.left_out.list_in(running.run_directory)
    introduce(console, running.notes, running.run_directory)
    return running.run_directory, carry_out(running, *observers_of(running, console))


def observers_of(
    search: Search, console: Console | None
) -> Iterator[AbstractContextManager[Callable[[Event], None]]]:
    """What watches a search: the curves that its settings ask for, and a person at the console."""
    if search.config.log == "tensorboard":
        seeds = search.config.seeds
        yield curves_written(search.run_directory, partial(points_of, seeds=seeds))
    if console is not None:
        yield shown(search, console)

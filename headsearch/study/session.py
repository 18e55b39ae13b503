"""`run_search` and `resume_search`: a whole search with progress display and signal handling.

The Python API and the command line both search through these functions.
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
from headsearch.runs.console import Loading, loading_shown, silently
from headsearch.runs.run import Run
from headsearch.study.display import points_of, shown
from headsearch.study.events import Event
from headsearch.study.followers import follow
from headsearch.study.resuming import prepared_again
from headsearch.study.search import Search
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
    """Runs a search, given settings as on the command line.

    Args:
        flags: settings by name; they override those of the file.
        config_file: a YAML file of settings.
        inputs: objects that a Python caller passes in place of names.
        directory: a run directory that was claimed for this search (`runs.directory.claimed`).
        console: where to show progress; None shows none.

    Returns:
        The run directory, and the number of the signal that stopped the search; 0 if it ended.

    Raises:
        UserError: a setting, the space or the data cannot be used, or the base diverged.
        InterruptedAtOnceError: Ctrl-C was pressed a second time.
    """
    config = resolve_here(flags, config_file)
    if directory is not None or not torchrun.first():
        # `out` exists already: it was claimed for this search, or by the first process of the job.
        config = config.model_copy(update={"out": None})
    with quiet_optuna():
        return _searched(lambda loading: prepare(config, loading, inputs), directory, console)


def resume_search(
    run: Run,
    *,
    inputs: InMemoryInputs = NO_INPUTS,
    log: str | None = None,
    moved: Mapping[str, str] | None = None,
    start_over: bool = False,
    console: Console | None = None,
) -> tuple[Path, int]:
    """Resumes a search that has not ended.

    Args:
        run: the search.
        inputs: the objects that it was started with in Python.
        log: none or tensorboard; by default as it was started.
        moved: where data, weights or space lie now, by the names of their settings.
        start_over: whether a search whose snapshots are lost starts from its first step.
        console: where to show progress; None shows none.

    Returns and raises as `run_search`.
    """
    changed = {**(moved or {}), **({} if log is None else {"log": log})}
    with quiet_optuna():
        return _searched(
            lambda loading: prepared_again(run, inputs, changed, loading),
            run.path,
            console,
            start_over=start_over,
        )


def _searched(
    prepare_search: Callable[[Loading], SearchSetup],
    directory: Path | None,
    console: Console | None,
    *,
    start_over: bool = False,
) -> tuple[Path, int]:
    """Runs a search until it ends or is stopped; a process that is not the first one follows."""
    if not torchrun.first():
        return take_part(lambda: follow(prepare_search(silently))), 0
    listed = listed_where_too_many(directory) if directory is not None else nullcontext()
    with loading_shown(console) as loading, listed:
        prepared = prepare_search(loading)
        loading("opening the study")
        running = Search(prepared, directory, start_over=start_over)
    running.prepared.data.left_out.list_in(running.run_directory)
    introduce(console, running.notes, running.run_directory)
    return running.run_directory, carry_out(
        running, *observers_of(running, console), console=console
    )


def observers_of(
    search: Search, console: Console | None
) -> Iterator[AbstractContextManager[Callable[[Event], None]]]:
    """The observers of a search: TensorBoard's curves if asked for, and the console's display."""
    if search.config.log == "tensorboard":
        seeds = search.config.seeds
        yield curves_written(search.run_directory, partial(points_of, seeds=seeds), console)
    if console is not None:
        yield shown(search, console)

"""Whole searches and verifications on an engine, with progress display and signal handling.

The Python API and the command line both use these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from headsearch.cluster.choices import GRACE_S, EngineChoices
from headsearch.cluster.display import shown
from headsearch.cluster.driver import DriverEvent
from headsearch.cluster.plan import Plan, read_plan
from headsearch.cluster.ray_engine import connected
from headsearch.cluster.search import EngineSearch
from headsearch.cluster.verification import EngineVerification
from headsearch.config.settings import resolve
from headsearch.data.image.skipped import listed_where_too_many
from headsearch.errors import UserError
from headsearch.pretraining.session import run_verification
from headsearch.pretraining.verification import Verification
from headsearch.report.session import carry_out, introduce, quiet_optuna
from headsearch.runs.console import Loading, loading_shown, print_notes
from headsearch.runs.directory import claimed
from headsearch.runs.run import Run
from headsearch.study.resuming import prepared_again
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.environment import resolve_here
from headsearch.training.inputs import InMemoryInputs

STOPPING = "stopping the tasks, which write a snapshot each; Ctrl-C again ends them at once"


def run_search_on(
    chosen: EngineChoices,
    flags: Mapping[str, Any],
    config_file: Path | None,
    directory: Path,
    console: Console | None = None,
) -> tuple[EngineSearch, int]:
    """Runs a search on an engine, given settings as on the command line.

    Args:
        chosen: the engine.
        flags: settings by name; they override those of the file.
        config_file: a YAML file of settings.
        directory: a run directory that was claimed for this search (`runs.directory.claimed`).
        console: where to show progress; None shows none.

    Returns:
        The search, and the number of the signal that stopped it; 0 if it ended.

    Raises:
        UserError: a setting, the space, the data or the engine cannot be used.
        InterruptedAtOnceError: Ctrl-C was pressed a second time.
    """
    config = resolve_here(flags, config_file).model_copy(update={"out": None})
    return _searched(chosen, lambda loading: prepare(config, loading), directory, console)


def search_on(
    engine: str, flags: Mapping[str, Any], inputs: InMemoryInputs, console: Console | None
) -> tuple[Path, int]:
    """Runs a search on an engine in a new run directory, for a caller in Python.

    Returns and raises as `run_search_on`, with the run directory in place of the search.
    """
    chosen = EngineChoices(engine)
    if inputs.names:
        raise UserError(
            f"{inputs.names[0]} is an object, which the processes of engine= cannot load: "
            "give a name or a path"
        )
    with claimed(resolve(flags), flags) as directory:
        search, signal = run_search_on(chosen, flags, None, directory, console)
    return search.run_directory, signal


def resume_search_on(
    chosen: EngineChoices,
    run: Run,
    *,
    moved: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> tuple[EngineSearch, int]:
    """Resumes a search on an engine; see `run_search_on`.

    Args:
        chosen: the engine, the same or another.
        run: the search.
        moved: where data, weights or space lie now, by the names of their settings.
        console: where to show progress; None shows none.
    """
    return _searched(
        chosen,
        lambda loading: prepared_again(run, flags=moved or {}, loading=loading),
        run.path,
        console,
    )


def resume_on(
    engine: str | None, run: Run, moved: Mapping[str, str], console: Console | None
) -> tuple[Path, int] | None:
    """Resumes a search on the engine given, else on the one that it began with.

    Returns:
        As `search_on`; None if the search is to be resumed in this process.
    """
    chosen = chosen_for_resuming(run.path, engine)
    if chosen is None:
        return None
    search, signal = resume_search_on(chosen, run, moved=moved, console=console)
    return search.run_directory, signal


def chosen_for_resuming(
    run: Path, engine: str | None, grace: float = GRACE_S
) -> EngineChoices | None:
    """The engine that a run goes on with: the one given, else the one that it began with.

    Returns:
        None if the run goes on in this process.

    Raises:
        UserError: the engine cannot be used here.
    """
    plan: Plan | None = read_plan(run)
    spec = engine or (plan.engine if plan is not None else None)
    processes = plan.processes if plan is not None else 1
    return EngineChoices(spec, grace, processes=processes) if spec is not None else None


def _searched(
    chosen: EngineChoices,
    prepare_search: Callable[[Loading], SearchSetup],
    directory: Path,
    console: Console | None,
) -> tuple[EngineSearch, int]:
    with quiet_optuna(), ExitStack() as stack:
        with loading_shown(console) as loading, listed_where_too_many(directory):
            prepared = prepare_search(loading)
            loading(f"starting Ray ({chosen.engine})")
            engine = stack.enter_context(_engine_for(chosen, prepared))
            running = EngineSearch(
                prepared,
                directory,
                engine,
                name=chosen.engine,
                generation=chosen.generation,
                grace=chosen.grace,
                processes=chosen.processes,
            )
        prepared.data.left_out.list_in(directory)
        introduce(console, running.notes, directory)
        observers = _observers(console, "cohort")
        return running, carry_out(running, *observers, console=console, stopping=STOPPING)


def verify_on(
    chosen: EngineChoices, verification: Verification, console: Console | None = None
) -> tuple[EngineVerification, int]:
    """Runs the solo runs of a verification on an engine.

    Returns:
        The verification, and the number of the signal that stopped it; 0 if all have ended.

    Raises:
        UserError: the engine cannot be used, or the run cannot be written.
    """
    gpu = verification.devices[0].startswith("cuda")
    with connected(chosen.engine, cpus=1 if gpu else verification.threads, gpu=gpu) as engine:
        running = EngineVerification(verification, engine, grace=chosen.grace)
        if console is not None:
            print_notes(console, running.notes)
        observers = _observers(console, "solo run")
        return running, carry_out(running, *observers, console=console, stopping=STOPPING)


def verified_on(engine: str | None, verification: Verification, console: Console | None) -> int:
    """Runs a verification on an engine, or in processes of this machine if that is None.

    Returns:
        The number of the signal that stopped it; 0 if all solo runs have ended.
    """
    if engine is None:
        return run_verification(verification, console)
    return verify_on(EngineChoices(engine), verification, console)[1]


def _observers(
    console: Console | None, what: str
) -> Iterator[AbstractContextManager[Callable[[DriverEvent], None]]]:
    if console is not None:
        yield shown(console, what)


def _engine_for(chosen: EngineChoices, prepared: SearchSetup) -> AbstractContextManager[Any]:
    """The engine, whose processes each take what one that trains a cohort needs."""
    gpu = prepared.training.device.type == "cuda"
    cpus = 1 if gpu else torch.get_num_threads()
    return connected(chosen.engine, cpus=cpus, gpu=gpu, processes=chosen.processes)

"""The commands `run` and `resume`: start a search, and resume a search or a pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headsearch import torchrun
from headsearch.cli.flags import EngineOption, GraceOption, settings_as_flags
from headsearch.cli.output import (
    conclude,
    console_here,
    end,
    end_without_heads,
    importing,
    resumable,
)
from headsearch.cli.pretraining import finish_pretraining
from headsearch.cluster.choices import GENERATION, GRACE_S, EngineChoices
from headsearch.config.machine import check_here
from headsearch.config.settings import RunConfig, read_config_file, resolve
from headsearch.errors import UserError
from headsearch.runs.console import loading_shown, print_notes, say
from headsearch.runs.directory import claimed

if TYPE_CHECKING:
    from rich.console import Console

    from headsearch.cluster.search import EngineSearch

LOG_HELP = RunConfig.model_fields["log"].description


@settings_as_flags()
def run(
    config: Annotated[
        Path | None, typer.Option(help="Read settings from a YAML file; flags override it.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print what a search would do, and its time and memory: measures a few "
            "steps, and writes nothing.",
        ),
    ] = False,
    engine: EngineOption = None,
    grace: GraceOption = GRACE_S,
    generation: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --engine and a sampler that learns (tpe, nsgaii): it learns after every so "
            "many cohorts, whatever the number of machines.",
        ),
    ] = GENERATION,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --engine: processes that train each cohort together, as under torchrun, "
            "each with a GPU (or --threads cores) of its own.",
        ),
    ] = 1,
    **flags: Any,
) -> None:
    """Search: train candidate heads together, prune the weak, rank the rest.

    Example: [bold]headsearch run --base vit_s --space heads.yaml[/bold]
    """
    given = {name: value for name, value in flags.items() if value is not None}
    settings = resolve(given, config)  # reports wrong values before anything slow is imported
    if dry_run and torchrun.count() > 1:
        raise UserError("--dry-run measures one process: leave torchrun out")
    if dry_run:
        _dry_run(given, config)
        return
    check_here(settings)
    console = console_here()
    if engine is not None:
        chosen = EngineChoices(engine, grace, generation, processes)
        _run_on(chosen, settings, given, config, console)
        return
    if processes > 1:
        raise UserError("--processes is for --engine; without it, torchrun starts processes")
    if not torchrun.first():
        from headsearch.study.session import run_search

        run_search(given, config)
        return
    # The directory is made before anything slow is imported: from here on a run that loses its
    # power can be resumed.
    in_file = read_config_file(config) if config is not None else {}
    asked = {**{name: entry.value for name, entry in in_file.items()}, **given}
    with resumable(console), claimed(settings, asked) as directory:
        with importing(console):
            from headsearch.study.session import run_search
        found, signal = run_search(given, config, directory=directory, console=console)
    conclude(found, console)
    end(signal, found, console)
    end_without_heads(found)


def _run_on(
    chosen: EngineChoices,
    settings: RunConfig,
    given: Mapping[str, Any],
    config: Path | None,
    console: Console,
) -> None:
    """Runs a search on an engine."""
    in_file = read_config_file(config) if config is not None else {}
    asked = {**{name: entry.value for name, entry in in_file.items()}, **given}
    with resumable(console), claimed(settings, asked) as directory:
        with importing(console):
            from headsearch.cluster.session import run_search_on
        search, signal = run_search_on(chosen, given, config, directory, console)
    _conclude_on(search, signal, console)


def _conclude_on(search: EngineSearch, signal: int, console: Console) -> None:
    """Ends a search on an engine as any other; cohorts that were set aside give exit code 1."""
    found = search.run_directory
    conclude(found, console)
    end(signal, found, console)
    for line in search.set_aside:
        say(console, line)
    if search.set_aside:
        say(console, f"headsearch resume {found} tries again what was set aside")
        raise typer.Exit(1)
    end_without_heads(found)


def _dry_run(given: Mapping[str, Any], config: Path | None) -> None:
    """Prints what a search would do, and its time and memory."""
    console = console_here()
    with importing(console):
        from headsearch.cli.forecast_view import show_forecast
        from headsearch.report.session import quiet_optuna
        from headsearch.study.setup import prepare
        from headsearch.training.environment import resolve_here
    with quiet_optuna():
        with loading_shown(console) as loading:
            prepared = prepare(resolve_here(given, config), loading)
        print_notes(console, prepared.notes)
        show_forecast(prepared, console)


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    log: Annotated[
        str | None,
        typer.Option(metavar="none|tensorboard", help=f"{LOG_HELP} \\[default: as started]"),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the training images lie now, if they were moved.")
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Likewise for the evaluation images.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Likewise for the folder of timm's datasets.")
    ] = None,
    base_weights: Annotated[
        str | None, typer.Option(help="Likewise for the file of the base's first weights.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="Likewise for the search space, with the modules beside it."),
    ] = None,
    dense_data: Annotated[
        str | None, typer.Option(help="Likewise for the dense data, as it was named for run.")
    ] = None,
    dense_classes: Annotated[
        str | None, typer.Option(help="Likewise for the file with the classes of their masks.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Likewise for the further tasks, as they were named for run.")
    ] = None,
    start_over: Annotated[
        bool,
        typer.Option(
            "--start-over",
            help="If its snapshots are lost: discard its results and start from the first step.",
        ),
    ] = False,
    engine: EngineOption = None,
    grace: GraceOption = GRACE_S,
) -> None:
    """Resume a search or a pretraining that was interrupted, from its last snapshot.

    However it ended: Ctrl-C, a cluster's SIGTERM, kill -9, a power cut, a full disk. The results \
are those of a run without interruption.

    Example: [bold]headsearch resume results/RUN[/bold]
    """
    places = {
        "data": data, "eval_data": eval_data, "data_dir": data_dir, "base_weights": base_weights,
        "space": space, "dense_data": dense_data, "dense_classes": dense_classes,
        "tasks": tasks,
    }  # fmt: skip
    moved = {name: place for name, place in places.items() if place is not None}
    console = console_here()
    with importing(console):
        from headsearch.cluster.session import chosen_for_resuming, resume_search_on
        from headsearch.pretraining.session import has_ended, resume_pretraining
        from headsearch.report import has_report
        from headsearch.runs.run import is_pretraining, read_run
        from headsearch.study.session import resume_search
    if has_ended(run):
        if torchrun.first():
            console.print(f"· {run} is complete: there is nothing to resume", soft_wrap=True)
            if not is_pretraining(run) and not has_report(run):
                conclude(run, console)
        return
    if is_pretraining(run):
        with resumable(console):
            resumed = resume_pretraining(
                run, log=log, moved=moved, start_over=start_over, console=console
            )
        finish_pretraining(*resumed, console)
        return
    chosen = chosen_for_resuming(run, engine, grace)
    if chosen is not None and (start_over or log not in (None, "none")):
        raise UserError(f"{run} is a run of an engine: leave out --log and --start-over")
    if chosen is not None:
        with resumable(console):
            search, signal = resume_search_on(chosen, read_run(run), moved=moved, console=console)
        _conclude_on(search, signal, console)
        return
    with resumable(console):
        found, signal = resume_search(
            read_run(run), log=log, moved=moved, start_over=start_over, console=console
        )
    if torchrun.first():
        conclude(found, console)
        end(signal, found, console)
        end_without_heads(found)

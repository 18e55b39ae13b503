"""Commands that search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headsearch import torchrun
from headsearch.cli import pretraining
from headsearch.cli.flags import settings_as_flags
from headsearch.cli.output import conclude, console_here, until_stopped
from headsearch.config.settings import RunConfig, check_log, read_config_file, resolve
from headsearch.errors import UserError
from headsearch.runs.directory import claimed

if TYPE_CHECKING:
    from headsearch.study.search import Search
    from headsearch.study.setup import SearchSetup


LOG_HELP = RunConfig.model_fields["log"].description


@settings_as_flags()
def run(
    config: Annotated[
        Path | None, typer.Option(help="Read settings from a YAML file; flags win over it.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what would be done, in which time and memory: measures a few steps, "
            "and writes nothing.",
        ),
    ] = False,
    **flags: Any,
) -> None:
    """Search: train candidate heads together, prune the weak, rank the rest.

    Example: [bold]headsearch run --base vit_s --space heads.yaml[/bold]
    """
    given = {name: value for name, value in flags.items() if value is not None}
    settings = resolve(given, config)  # wrong values are told before anything heavy is loaded
    if dry_run and torchrun.count() > 1:
        raise UserError("--dry-run measures one process: leave torchrun out")
    if dry_run:
        _foresee(given, config)
        return
    check_log(settings)
    if not torchrun.first():
        _follow(lambda: prepare_here(given, config))
        return
    # The directory too: whatever happens from here on, the run can be gone on with.
    in_file = read_config_file(config) if config is not None else {}
    asked = {**{name: entry.value for name, entry in in_file.items()}, **given}
    with claimed(settings, asked) as directory:
        from headsearch.data.image.skipped import listed_where_too_many
        from headsearch.study.search import Search

        with listed_where_too_many(directory):
            search = Search(prepare_here(given, config), directory)
    _carry_out(search)


def prepare_here(given: Mapping[str, Any], config: Path | None) -> SearchSetup:
    """All that a search needs, in a directory that there is already."""
    import optuna

    from headsearch.study.setup import prepare
    from headsearch.training.environment import resolve_here

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return prepare(resolve_here(given, config).model_copy(update={"out": None}))


def _follow(prepare: Callable[[], SearchSetup]) -> None:
    """Takes part in the search of the first process."""
    import threading

    from headsearch.runs.signals import stops_heard
    from headsearch.study.followers import follow

    with stops_heard(threading.Event()):  # the first process hears them too, and decides
        follow(prepare())


def _foresee(given: Mapping[str, Any], config: Path | None) -> None:
    """Says what a search would do."""
    import optuna

    from headsearch.cli.forecast_view import show_forecast
    from headsearch.report.console import print_notes
    from headsearch.study.setup import prepare
    from headsearch.training.environment import resolve_here

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = console_here()
    prepared = prepare(resolve_here(given, config))
    print_notes(console, prepared.notes)
    show_forecast(prepared, console)


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    log: Annotated[
        str | None,
        typer.Option(metavar="none|tensorboard", help=f"{LOG_HELP} \\[default: as it was begun]"),
    ] = None,
) -> None:
    """Go on with a search or a pretraining that was interrupted, from its last snapshot.

    However it ended: Ctrl-C, a cluster's SIGTERM, kill -9, a power cut, a full disk. It comes to \
what it would have come to without the interruption.

    Example: [bold]headsearch resume results/RUN[/bold]
    """
    import optuna

    from headsearch.data.image.skipped import listed_where_too_many
    from headsearch.pretraining.run import has_ended
    from headsearch.pretraining.setup import prepare_again
    from headsearch.runs.run import is_pretraining, read_run
    from headsearch.study.search import prepared_again, resume_search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    flags = {} if log is None else {"log": log}
    if is_pretraining(run):
        if has_ended(run):
            _say_that_it_ended(run)
            return
        with listed_where_too_many(run):
            planned = prepare_again(run, flags=flags)
        pretraining.carry_out(planned, run)
        return
    found = read_run(run)
    if found.facts.get("status") == "complete":
        _say_that_it_ended(run)
        return
    if not torchrun.first():
        _follow(lambda: prepared_again(found, flags=flags))
        return
    with listed_where_too_many(run):
        search = resume_search(found, flags=flags)
    _carry_out(search)


def _say_that_it_ended(run: Path) -> None:
    from headsearch.report.console import print_notes

    if torchrun.first():
        print_notes(
            console_here(), [f"{run} has come to its end already: there is nothing to resume"]
        )


def _carry_out(search: Search) -> None:
    """Runs a search to its end, or to where it is told to stop."""
    from headsearch.study.display import show

    search.prepared.data.left_out.list_in(search.run_directory)
    with until_stopped(search, show) as console:
        conclude(search.run_directory, console)

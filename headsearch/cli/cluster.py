"""The commands of a search on many machines: submit, worker, collect and status."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headsearch import torchrun
from headsearch.cli.flags import settings_as_flags
from headsearch.cli.output import conclude, console_here, importing
from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.runs.console import loading_shown, print_notes, say
from headsearch.runs.signals import stops_heard
from headsearch.runs.storage_url import VARIABLE, masked
from headsearch.text import counted

if TYPE_CHECKING:
    from headsearch.cluster.shared_study import SharedStudy

StorageOption = Annotated[
    str,
    typer.Option(
        envvar=VARIABLE,
        metavar="URL",
        help="Where the study is: postgresql://…, mysql://…, journal:///FILE or grpc://HOST:PORT.",
    ),
]
StudyOption = Annotated[str, typer.Option(metavar="NAME", help="The study's name.")]


def open_shared(url: str, name: str) -> SharedStudy:
    """The study of this name."""
    import optuna

    from headsearch.cluster.shared_study import open_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return open_study(url, name)


@settings_as_flags(without=("out", "storage"))
def submit(
    storage: StorageOption,
    study: StudyOption,
    shared: Annotated[
        str,
        typer.Option(
            metavar="LOCATION",
            help="Where all machines find the base's first weights: a path, or any URL that "
            "fsspec knows (s3://…).",
        ),
    ],
    heartbeat: Annotated[
        float, typer.Option(help="Seconds between two heartbeats of a worker.", min=0.1)
    ] = 20.0,
    grace: Annotated[
        float, typer.Option(help="Seconds without a heartbeat until others take its cohort over.")
    ] = 120.0,
    attempts: Annotated[
        int, typer.Option(min=1, help="Failures after which a cohort counts as lost.")
    ] = 5,
    config: Annotated[
        Path | None, typer.Option(help="Read settings from a YAML file; flags override it.")
    ] = None,
    **flags: Any,
) -> None:
    """Write a search into a shared study, whose cohorts any number of machines can train.

    Takes the settings of `run`. Nothing trains here: start `headsearch worker` on each machine.

    Example: [bold]headsearch submit --storage URL --study NAME --shared /mnt/first[/bold]
    """
    given = {name: value for name, value in flags.items() if value is not None}
    settings = resolve(given, config)  # reports wrong values before anything slow is imported

    console = console_here()
    with importing(console):
        import optuna

        from headsearch.cluster.engine.claims import Rules
        from headsearch.cluster.shared_study import check_can_be_shared
        from headsearch.cluster.shared_study import submit as write
        from headsearch.runs.storage import check_shared, within_reach
        from headsearch.study.setup import prepare
        from headsearch.training.environment import resolve_here

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        rules = Rules(heartbeat=heartbeat, grace=grace, attempts=attempts)
    except ValueError:
        raise UserError(f"--grace {grace:g} must be three times --heartbeat or more") from None
    check_shared(storage)
    check_can_be_shared(settings)
    with loading_shown(console) as loading:
        here = resolve_here(given, config).model_copy(update={"out": None, "storage": None})
        prepared = prepare(here, loading)
    with within_reach():
        _, notes = write(prepared, study, storage, shared, rules)
    print_notes(console, [*prepared.notes, *notes])
    console.print(f"headsearch worker --storage {masked(storage)} --study {study}", soft_wrap=True)


def worker(
    storage: StorageOption,
    study: StudyOption,
    out: Annotated[
        Path | None,
        typer.Option(help="The worker's own folder. \\[default: a new one under results/]"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name, shown to others. \\[default: host and process]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. \\[default: PyTorch's]")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the training images lie on this machine.")
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Where the evaluation images lie on this machine.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where timm's datasets lie on this machine.")
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(help="The search space; needed if it has families of your own."),
    ] = None,
    retry_lost: Annotated[
        bool,
        typer.Option("--retry-lost", help="Try lost tasks again, which failed too often."),
    ] = False,
) -> None:
    """Train one cohort of a study after another, until none is left.

    Ctrl-C and SIGTERM give the current cohort back at once. If a worker dies, others take its \
cohort over.

    Example: [bold]headsearch worker --storage URL --study NAME[/bold]
    """
    import threading
    from tempfile import TemporaryDirectory

    console = console_here()
    with importing(console):
        from headsearch.cluster.shared_study import prepare_as_submitted
        from headsearch.cluster.worker import WEIGHTS_FOLDER, Worker
        from headsearch.runs.directory import hold

    own = name or f"{socket.gethostname()}-{os.getpid()}"
    found = open_shared(storage, study)
    here = {"data": data, "eval_data": eval_data, "data_dir": data_dir}
    given: dict[str, Any] = {key: value for key, value in here.items() if value is not None}
    overrides = {**given, "device": device, "threads": threads}
    if not torchrun.first():
        with TemporaryDirectory() as cache, stops_heard(threading.Event()):
            prepared = prepare_as_submitted(found, overrides, Path(cache), space)
            Worker(found, prepared, Path(cache), own).follow()
        return
    folder = out or Path("results") / f"worker-{study}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot write into it: {error.strerror}") from None
    lock = hold(folder)
    prepared = prepare_as_submitted(found, overrides, folder / WEIGHTS_FOLDER, space)
    prepared.data.left_out.list_in(folder)
    working = Worker(found, prepared, folder, own)
    say(console, f"{own} | works at {study} in {folder}")
    for line in found.tasks().retry_lost() if retry_lost else ():
        say(console, f"{own} | {line}")

    def acknowledge(number: int) -> None:
        say(console, f"{own} | {Signals(number).name}: gives its task back after this step")

    with stops_heard(working.stop, acknowledge) as heard:
        working.run(lambda line: say(console, f"{own} | {line}"))
    lock.release()
    if heard.number:
        say(console, f"{own} | stopped, with {counted(working.done, 'task')} done")
        raise typer.Exit(128 + heard.number)
    say(console, f"{own} | nothing is left: {counted(working.done, 'task')} done here")


def collect(
    storage: StorageOption,
    study: StudyOption,
    out: Annotated[Path, typer.Option(help="The run directory to write.")],
) -> None:
    """Write the results of workers into a run directory, as `run` writes it.

    Works while cohorts are still training: run it again to add the results that are new.

    Example: [bold]headsearch collect --storage URL --study NAME --out results/RUN[/bold]
    """
    from headsearch.cluster.collect import collect as write
    from headsearch.runs.storage import within_reach

    console = console_here()
    with within_reach():
        run, notes = write(open_shared(storage, study), out)
    print_notes(console, notes)
    conclude(run.path, console)


def status(
    storage: StorageOption,
    study: StudyOption,
    watch: Annotated[
        float | None, typer.Option(min=0.1, help="Repeat every so many seconds, to the end.")
    ] = None,
) -> None:
    """Show a study's cohorts, its workers and their heartbeats, the best heads, the time left.

    Example: [bold]headsearch status --storage URL --study NAME --watch 5[/bold]
    """
    from headsearch.cluster.status import StudyView, show_status
    from headsearch.runs.storage import within_reach

    with within_reach():
        show_status(StudyView(open_shared(storage, study)), console_here(), watch)

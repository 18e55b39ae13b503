"""The commands of the command line by group, and the errors that users see. No import of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from headsearch import torchrun
from headsearch.cli.inspect import bench, space
from headsearch.cli.pretraining import pretrain, verify
from headsearch.cli.results import calibrate, compare, explain, export, plot, report
from headsearch.cli.search import resume, run
from headsearch.cli.watching import watch
from headsearch.errors import UserError
from headsearch.text import printable
from headsearch.version import VERSION

app = typer.Typer(
    name="headsearch",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


OF_A_JOB = ("run", "resume", "pretrain")
"""Commands that several processes, started by torchrun, carry out together."""

_UsageError: Any = typer.BadParameter.__mro__[1]
"""click's error for wrong arguments. typer bundles click, under a path that changed before."""


def carry_out() -> int:
    """Carries out the command that the program was started with; returns its exit code.

    Raises:
        KeyboardInterrupt: a signal interrupted it.
    """
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        code = _fail(str(error))
    except _UsageError as error:
        code = _fail(error.format_message())
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; not imported for its name
            raise
        code = _fail(
            "out of memory; use a lower --cohort, --batch-size, --image-size or --clip-seconds"
        )
    # Not after an error: other processes may still be waiting for this one.
    if not code and "torch" in sys.modules:
        from headsearch.training import distributed

        distributed.leave_processes()
    return int(code or 0)


def _fail(message: str) -> int:
    """Prints an error in one line; returns the exit code."""
    program = f"headsearch, rank {torchrun.rank()}" if torchrun.count() > 1 else "headsearch"
    print(f"{program}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"headsearch {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def headsearch(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True,
                           help="Show the version and exit.")
    ] = False,
) -> None:  # fmt: skip
    """Find the auxiliary head that helps a self-supervised vision model most.

    Attaches many candidate heads to one shared base, trains them together, prunes the weak, and \
ranks the rest by discrepancy from the base and downstream accuracy.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
    elif torchrun.count() > 1 and context.invoked_subcommand not in OF_A_JOB:
        raise UserError(
            f"{context.invoked_subcommand} works in one process: torchrun is for "
            f"{', '.join(OF_A_JOB)}"
        )


GONE = {
    "submit": "headsearch run --engine ray://HOST:PORT plans and runs the search",
    "worker": "ray start --address HOST:PORT lets a machine take part",
    "status": "headsearch run --engine shows how its cohorts stand",
    "collect": "headsearch run --engine writes the run directory itself",
}
"""Commands of earlier versions, and what to do instead."""


def _gone(context: typer.Context) -> None:
    name = str(context.info_name)
    raise UserError(f"there is no {name} any more: {GONE[name]} (docs/clusters.md)")


GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Search": (run, resume, watch),
    "Use a result": (
        pretrain,
        export,
        verify,
        explain,
        calibrate,
        compare,
        report,
        plot,
    ),
    "Before a search": (space, bench),
}
"""The commands by the panel that they have in `headsearch --help`."""

for group, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=group)(command)

for name in GONE:
    app.command(
        name,
        hidden=True,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_gone)

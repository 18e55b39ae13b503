"""The commands: parse, call, print. Heavy imports wait until a command runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from headsearch import __version__
from headsearch.config import (
    OF_SEARCH_ALONE,
    PRESETS,
    RunConfig,
    panel_of,
    read_config_file,
    resolve,
)
from headsearch.errors import UserError
from headsearch.escaping import printable
from headsearch.run_directory import claimed

if TYPE_CHECKING:
    from rich.console import Console

    from headsearch.study import Search

app = typer.Typer(
    name="headsearch",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


_UsageError: Any = typer.BadParameter.__mro__[1]
"""click's error for wrong arguments, which typer brings along under changing names."""

PIPE_WIDTH = 240
"""Columns that a table may take where no terminal limits it."""


def main() -> None:
    """The entry point: what a user can cause ends in one line and exit code 2, not a traceback."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        code = _fail(str(error))
    except _UsageError as error:
        code = _fail(error.format_message())
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; not imported for its name
            raise
        code = _fail("out of memory; use a lower --cohort, --batch-size or --image-size")
    except (KeyboardInterrupt, typer.Abort):
        print("headsearch: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def _fail(message: str) -> int:
    print(f"headsearch: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"headsearch {__version__}")
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


def _settings_as_flags(
    *, without: Collection[str] = (), show_defaults: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command, in place of its **flags, a flag for every setting of `RunConfig`.

    Args:
        without: settings that mean nothing to the command.
        show_defaults: whether the help says what a setting is by default.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            p
            for p in inspect.signature(command, eval_str=True).parameters.values()
            if p.kind != p.VAR_KEYWORD
        ]
        flags = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[_flag_type(name), _flag(name, show_defaults)],
            )
            for name in RunConfig.model_fields
            if name not in without
        ]
        command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        return command

    return decorate


def _flag_type(setting: str) -> Any:
    """What the command line parses a setting as: a switch or a text, which the setting checks."""
    return (bool if RunConfig.model_fields[setting].annotation is bool else str) | None


def _flag(setting: str, show_default: bool) -> Any:
    field = RunConfig.model_fields[setting]
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    help_text = field.description or ""
    if not show_default and setting != "out":
        help_text = help_text.partition(" [default:")[0]
    elif setting in PRESETS["quick"]:
        help_text += " [default: by --budget]"
    elif field.default is not None and field.default is not False:
        help_text += f" [default: {field.default}]"
    return typer.Option(
        "--" + setting.replace("_", "-"),
        help=help_text.replace("[", "\\["),  # rich would take it for markup
        rich_help_panel=panel_of(setting),
        show_default=False,
        metavar="|".join(choices) or _kind(field.annotation),
    )


def _kind(annotation: Any) -> str | None:
    kinds = {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}
    return next((kinds[k] for k in kinds if k in (annotation, *get_args(annotation))), None)


@app.command()
@_settings_as_flags()
def run(
    config: Annotated[
        Path | None, typer.Option(help="Read settings from a YAML file; flags win over it.")
    ] = None,
    **flags: Any,
) -> None:
    """Search: train candidate heads together, prune the weak, rank the rest.

    Example: [bold]headsearch run --base vit_s --space heads.yaml[/bold]
    """
    given = {name: value for name, value in flags.items() if value is not None}
    settings = resolve(given, config)  # wrong values are told before anything heavy is loaded
    # The directory too: whatever happens from here on, the run can be gone on with.
    in_file = read_config_file(config) if config is not None else {}
    asked = {**{name: entry.value for name, entry in in_file.items()}, **given}
    with claimed(settings, asked) as directory:
        import optuna

        from headsearch.data.left_out import listed_where_too_many
        from headsearch.machine import resolve_here
        from headsearch.preparation import prepare
        from headsearch.study import Search

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        here = resolve_here(given, config).model_copy(update={"out": None})
        with listed_where_too_many(directory):
            search = Search(prepare(here), directory)
    _carry_out(search)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
) -> None:
    """Go on with a search that was interrupted, from its last snapshot.

    However it ended: Ctrl-C, a cluster's SIGTERM, kill -9, a power cut, a full disk. It comes to \
what it would have come to without the interruption.

    Example: [bold]headsearch resume results/RUN[/bold]
    """
    import optuna

    from headsearch.checkpoint import read_run
    from headsearch.console import print_notes
    from headsearch.data.left_out import listed_where_too_many
    from headsearch.study import resume_search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = read_run(run)
    if found.facts.get("status") == "complete":
        print_notes(_console(), [f"{run} has come to its end already: there is nothing to resume"])
        return
    with listed_where_too_many(run):
        search = resume_search(found)
    _carry_out(search)


def _carry_out(search: Search) -> None:
    """Runs a search to its end, or to where it is told to stop."""
    from headsearch.console import print_notes, say, show

    console = _console()
    search.prepared.data.left_out.list_in(search.run_directory)
    print_notes(console, search.notes)
    console.print(f"run directory: {search.run_directory}", soft_wrap=True)
    how = f"headsearch resume {search.run_directory}"
    try:
        signal = show(search, console)
    except KeyboardInterrupt:
        say(console, f"interrupted at once: {how} goes on from the last snapshot")
        raise typer.Exit(130) from None
    _conclude(search.run_directory, console)
    if signal:
        say(console, f"interrupted, with all that was done kept: {how} goes on from here")
        raise typer.Exit(128 + signal)


RankOption = Annotated[
    int | None, typer.Option(min=1, help="A rank of RUN's ranking. \\[default: 1]")
]


@app.command()
@_settings_as_flags(without=OF_SEARCH_ALONE, show_defaults=False)
def pretrain(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", show_default=False, help="A search to take the head of."),
    ] = None,
    rank: RankOption = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Instead: a candidate's name (convnext-d3-k7-noshortcut), a YAML file of one "
            "head, or none for the base alone."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Without a RUN: read settings from a YAML file; flags win over it."),
    ] = None,
    **flags: Any,
) -> None:
    """Pretrain the base with one head, as the search did, and keep the base.

    Every setting is that of RUN where no flag says otherwise; without a RUN, that of `run`. The \
weights kept are those of the EMA teacher, which is what is scored.

    Example: [bold]headsearch pretrain results/RUN --rank 1[/bold]

    Example: [bold]headsearch pretrain --base vit_s --head convnext-d3-k7-noshortcut[/bold]
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if run is None:
        resolve(given, config)  # wrong values are told before anything heavy is loaded

    from headsearch.checkpoint import read_run
    from headsearch.console import print_notes
    from headsearch.console_solo import show_pretraining
    from headsearch.pretraining import Pretraining, prepare_pretraining

    found = read_run(run) if run is not None else None
    console = _console()
    planned = prepare_pretraining(given, run=found, rank=rank, head=head, config_file=config)
    pretraining = Pretraining(planned)
    print_notes(console, planned.notes)
    console.print(f"run directory: {pretraining.run_directory}", soft_wrap=True)
    try:
        show_pretraining(pretraining, console)
    except KeyboardInterrupt:
        if pretraining.weights.exists():
            console.print("interrupted: the weights of the last rung are kept")
            _say_how_to_load(pretraining.loading, console)
        else:
            console.print("interrupted before rung 1: there are no weights to keep yet")
        raise typer.Exit(130) from None
    _say_how_to_load(pretraining.loading, console)


def _say_how_to_load(loading: str, console: Console) -> None:
    console.print("the base alone, the EMA teacher's weights, which is what was scored:")
    console.print(f"  {loading}", soft_wrap=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    rank: RankOption = None,
    head: Annotated[
        str | None,
        typer.Option(help="Instead: a candidate's name, or a YAML file of one head."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A directory. \\[default: heads in RUN]")] = None,
) -> None:
    """Write a head as YAML, for --head and --space, and as PyTorch that needs no headsearch.

    Example: [bold]headsearch export results/RUN --rank 1[/bold]
    """
    from headsearch.checkpoint import read_run
    from headsearch.console import print_notes
    from headsearch.exporting import export_from

    console = _console()
    done = export_from(read_run(run), rank=rank, head=head, out=out)
    print_notes(console, done.notes)
    console.print(f"space: {done.files.yaml}", soft_wrap=True)
    if done.files.python is not None:
        console.print(f"PyTorch: {done.files.python}", soft_wrap=True)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    top: Annotated[int, typer.Option(min=1, help="Heads of the ranking, from the first.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Solo runs of each head.")] = 3,
    controls: Annotated[
        bool,
        typer.Option(help="Also run identity and the base's own kind of block; no head always is."),
    ] = True,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Solo runs at once. \\[default: one a core, or one a GPU]"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of each. \\[default: the cores, shared out]"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
) -> None:
    """Pretrain the base with the best heads, each alone, and say what each gains it.

    A search predicts; solo runs measure, with the same base, data and length, under several \
seeds. Those that have ended are not repeated, so an interrupted command goes on where it was.

    Example: [bold]headsearch verify results/RUN --top 3 --seeds 3[/bold]
    """
    from headsearch.checkpoint import read_run
    from headsearch.console import print_notes
    from headsearch.console_verify import show_verification
    from headsearch.verification import Verification

    console = _console()
    verification = Verification(
        read_run(run), top=top, seeds=seeds, controls=controls, jobs=jobs, threads=threads,
        device=device,
    )  # fmt: skip
    print_notes(console, verification.notes)
    try:
        show_verification(verification, console)
    except KeyboardInterrupt:
        console.print("interrupted: solo runs that have ended are kept; the same command goes on")
        raise typer.Exit(130) from None
    _conclude(run, console)


@app.command()
def calibrate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Searches over the same heads, verified."),
    ],
    primary: Annotated[
        str, typer.Option(help="The score that counts; the others' p-values are corrected.")
    ] = "balanced",
    out: Annotated[
        Path | None, typer.Option(help="A .csv file. \\[default: calibration.csv in the first RUN]")
    ] = None,
) -> None:
    """Say how well each score of a search ranks heads by what they gain the base alone.

    Takes searches of one or more seeds, run with --pruner none, whose heads were verified by \
`headsearch verify RUN --top N`.

    Example: [bold]headsearch calibrate results/RUN results/RUN-of-another-seed[/bold]
    """
    from headsearch.calibration import calibrate_runs
    from headsearch.checkpoint import read_run, write_table
    from headsearch.console import print_table, say
    from headsearch.report.calibrated import calibration_table, calibration_words

    found = calibrate_runs([read_run(run) for run in runs], primary)
    target = out if out is not None else runs[0] / "calibration.csv"
    try:
        write_table(target, found.table())
    except OSError as error:
        raise UserError(f"{target}: cannot write the table: {error.strerror}") from None
    console = _console()
    print_table(console, calibration_table(found))
    console.print()
    say(console, calibration_words(found))
    console.print(f"table: {target}", soft_wrap=True)


@app.command()
def space(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a space that ships.")],
    base: Annotated[str, typer.Option(help="The base that heads are resolved on.")] = "vit_s",
    base_args: Annotated[
        str | None, typer.Option(help="Arguments of timm's model: depth=6,embed_dim=192.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=16, help="Side of the images in pixels.")] = 32,
    patch_size: Annotated[int | None, typer.Option(min=1, help="Patch side in pixels.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Candidates to list at most.")] = 200,
) -> None:
    """Check a search space and list its candidates with parameters and GFLOPs.

    Example: [bold]headsearch space heads.yaml --base vit_s[/bold]
    """
    from headsearch.bases import base_arguments, plan_base
    from headsearch.console import print_space
    from headsearch.space import find_space, load_space

    loaded = load_space(find_space(file))
    arguments = base_arguments(base, base_args)
    plan = plan_base(base, image_size, patch_size=patch_size, arguments=arguments)
    print_space(_console(), loaded.on(plan), limit)


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@app.command()
def report(run: RunArgument) -> None:
    """Write the report and the plots of a run again, finished or not.

    Example: [bold]headsearch report results/RUN[/bold]
    """
    _conclude(run, _console())


@app.command()
def plot(
    run: RunArgument,
    x: Annotated[str, typer.Option(help="Column on the horizontal axis.")] = "discrepancy",
    y: Annotated[str, typer.Option(help="Column on the vertical axis.")] = "head_knn",
    out: Annotated[
        Path | None,
        typer.Option(help="A .png, .svg or .pdf file. \\[default: in RUN/plots]"),
    ] = None,
) -> None:
    """Plot any column of ranking.csv or rungs.csv against another.

    Example: [bold]headsearch plot results/RUN --x params_m --y head_knn --out cost.png[/bold]
    """
    from headsearch.checkpoint import read_run
    from headsearch.report import plot_columns

    found = read_run(run)
    target = out if out is not None else run / "plots" / f"{y}-over-{x}.png"
    _console().print(f"plot: {plot_columns(found, x, y, target)}", soft_wrap=True)


def _console() -> Console:
    from headsearch.terminal import HarmlessConsole

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return HarmlessConsole(highlight=False, markup=False, width=width)


def _conclude(run_directory: Path, console: Console) -> None:
    """The final table, the advice, and where the report lies."""
    from headsearch.checkpoint import read_run
    from headsearch.console import print_table, say
    from headsearch.gains import verified
    from headsearch.report import advice, ranking_table, verdict, verified_table, write_report

    found = read_run(run_directory)
    where = write_report(found)
    if len(found.ranking):
        console.print()
        print_table(console, ranking_table(found, compact=True))
        console.print()
    say(console, advice(found))
    solo, table = verified(found), verified_table(found)
    if solo is not None and table is not None:
        console.print()
        print_table(console, table)
        console.print()
        say(console, verdict(solo))
    console.print(f"report: {where}", soft_wrap=True)

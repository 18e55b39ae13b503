"""The commands that read runs: explain, export, calibrate, compare, report and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headsearch.cli.flags import RankOption, RunArgument
from headsearch.cli.output import conclude, console_here, importing
from headsearch.errors import UserError


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    rank: RankOption = None,
    head: Annotated[
        str | None,
        typer.Option(help="Instead of --rank: a candidate's name, or a YAML file of one head."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A directory. \\[default: heads in RUN]")] = None,
) -> None:
    """Write a head as YAML, for --head and --space, and as PyTorch code without headsearch.

    Example: [bold]headsearch export results/RUN --rank 1[/bold]
    """
    from headsearch.pretraining.export import export_from
    from headsearch.runs.console import print_notes
    from headsearch.runs.run import read_run

    console = console_here()
    done = export_from(read_run(run), rank=rank, head=head, out=out)
    print_notes(console, done.notes)
    console.print(f"space: {done.files.yaml}", soft_wrap=True)
    if done.files.python is not None:
        console.print(f"PyTorch: {done.files.python}", soft_wrap=True)


def explain(
    run: RunArgument,
    head: Annotated[
        str | None,
        typer.Option(help="The head in question. \\[default: the best verified ones]"),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the verified heads.")] = 3,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Analyses, separated by commas: change, toward, reach, frequency, probes, cues, "
            "decisions, looks. \\[default: all]",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
) -> None:
    """Say what the base learned from its head, and where, from the solo runs of `verify`.

    Compares the base trained with a head to the same base with no head, with its own kind of \
head and untrained. A sentence is printed only for what exceeds both what two seeds differ by and \
what the base's own kind of head does.

    Example: [bold]headsearch explain results/RUN --head mixer-d2[/bold]
    """
    console = console_here()
    with importing(console):
        from headsearch.pretraining.explaining.session import explained
        from headsearch.report.document import write_report
        from headsearch.runs.console import print_notes, say
        from headsearch.runs.run import read_run

    names = [name.strip() for name in only.split(",")] if only else []
    found = explained(read_run(run), head=head, top=top, only=names, device=device, console=console)
    print_notes(console, found.left_out)
    console.print()
    for sentence in found.sentences:
        say(console, f"· {sentence}")
    say(console, found.summary)
    console.print(f"tables and pictures: {found.folder}", soft_wrap=True)
    console.print(f"report: {write_report(read_run(run))}", soft_wrap=True)


def calibrate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Searches over the same heads, verified."),
    ],
    primary: Annotated[
        str, typer.Option(help="The score that counts; the others' p-values are corrected.")
    ] = "head_accuracy",
    gain: Annotated[
        str,
        typer.Option(
            help="What heads gain in: accuracy, or with --dense-data segmentation, regions, "
            "detection or masks, or with --tasks tasks."
        ),
    ] = "accuracy",
    out: Annotated[
        Path | None, typer.Option(help="A .csv file. \\[default: calibration.csv in the first RUN]")
    ] = None,
) -> None:
    """Say how well each score of a search predicts what heads gain when trained alone.

    Takes searches of one or more seeds, run with --pruner none, whose heads were verified by \
`headsearch verify RUN --top N`.

    Example: [bold]headsearch calibrate results/RUN results/RUN-of-another-seed[/bold]
    """
    from headsearch.report.calibration import calibration_table, calibration_words
    from headsearch.report.console import print_table
    from headsearch.report.statistics.calibration import calibrate_runs
    from headsearch.runs.console import say
    from headsearch.runs.run import read_run
    from headsearch.runs.tables import write_table

    found = calibrate_runs([read_run(run) for run in runs], primary, gain)
    target = out if out is not None else runs[0] / "calibration.csv"
    try:
        write_table(target, found.table())
    except OSError as error:
        raise UserError(f"{target}: cannot write the table: {error.strerror}") from None
    console = console_here()
    print_table(console, calibration_table(found))
    console.print()
    say(console, calibration_words(found))
    console.print(f"table: {target}", soft_wrap=True)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Two searches or more, complete or not."),
    ],
    out: Annotated[
        Path, typer.Option(help="A directory to write into; runs are only read.")
    ] = Path("comparison"),
) -> None:
    """Compare searches of other seeds, bases, objectives or budgets on one page.

    Rankings side by side, how far they agree, and which settings differ.

    Example: [bold]headsearch compare results/RUN results/RUN-of-another-seed[/bold]
    """
    from headsearch.report.comparison import compare_runs
    from headsearch.report.console import print_table
    from headsearch.runs.console import say
    from headsearch.runs.run import read_run

    found = compare_runs([read_run(run) for run in runs])
    page = found.report(out)
    console = console_here()
    for table in found.tables():
        print_table(console, table)
        console.print()
    for sentence in found.findings:
        say(console, sentence)
    for sentence in found.cautions:
        say(console, f"· {sentence}")
    console.print(f"page: {page}", soft_wrap=True)


def report(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="A directory to write into; RUN is only read. \\[default: RUN]"),
    ] = None,
) -> None:
    """Write the report and the plots of a run again, complete or not.

    Example: [bold]headsearch report results/RUN[/bold]

    Example: [bold]headsearch report /archive/RUN --out report-of-run[/bold]
    """
    conclude(run, console_here(), out)


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
    from headsearch.report import plot_columns
    from headsearch.runs.run import read_run

    found = read_run(run)
    target = out if out is not None else run / "plots" / f"{y}-over-{x}.png"
    console_here().print(f"plot: {plot_columns(found, x, y, target)}", soft_wrap=True)

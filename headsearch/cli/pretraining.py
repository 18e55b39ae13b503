"""The commands `pretrain` and `verify`, which train the base with one head at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headsearch import torchrun
from headsearch.cli.flags import EngineOption, GraceOption, RankOption, settings_as_flags
from headsearch.cli.output import conclude, console_here, end, importing, resumable
from headsearch.cluster.choices import GRACE_S, EngineChoices
from headsearch.config.setting_groups import OF_SEARCH_ALONE
from headsearch.config.settings import resolve
from headsearch.runs.console import loading_shown, print_notes

if TYPE_CHECKING:
    from rich.console import Console

    from headsearch.pretraining.run import Pretraining


@settings_as_flags(without=OF_SEARCH_ALONE, show_defaults=False)
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
        typer.Option(help="Without a RUN: read settings from a YAML file; flags override it."),
    ] = None,
    **flags: Any,
) -> None:
    """Pretrain the base with one head, as the search did, and save the base.

    Settings without a flag are those of RUN, or the defaults of `run` without a RUN. The weights \
saved are those that are scored: the EMA teacher's, if the objective has one.

    Example: [bold]headsearch pretrain results/RUN --rank 1[/bold]

    Example: [bold]headsearch pretrain --base vit_s --head convnext-d3-k7-noshortcut[/bold]
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if run is None:
        resolve(given, config)  # reports wrong values before anything slow is imported

    console = console_here()
    with importing(console):
        from headsearch.pretraining.session import run_pretraining
        from headsearch.pretraining.setup import prepare_pretraining
        from headsearch.runs.run import read_run

    found = read_run(run) if run is not None else None
    with loading_shown(console if torchrun.first() else None) as loading:
        planned = prepare_pretraining(
            given, run=found, rank=rank, head=head, config_file=config, loading=loading
        )
    with resumable(console):
        done = run_pretraining(planned, console=console)
    finish_pretraining(*done, console)


def finish_pretraining(pretraining: Pretraining | None, signal: int, console: Console) -> None:
    """Says how to load the weights, and how to resume a pretraining that was stopped.

    Args:
        pretraining: the pretraining; None in all processes of a job but the first.
        signal: the number of the signal that stopped it; 0 for none.
        console: where to print.
    """
    if pretraining is None:
        return
    if pretraining.weights.exists():
        teacher = ", the EMA teacher's" if pretraining.setup.objective.has_teacher else ""
        console.print(f"the base alone, with the weights that were scored{teacher}:")
        console.print(f"  {pretraining.loading}", soft_wrap=True)
    end(signal, pretraining.run_directory, console)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    top: Annotated[int, typer.Option(min=1, help="Heads of the ranking, from the first.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Solo runs of each head.")] = 3,
    controls: Annotated[
        bool,
        typer.Option(help="Also run identity and the base's kind of block; no head always runs."),
    ] = True,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Solo runs at a time. \\[default: one per core, or per GPU]"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of each run. \\[default: the cores, divided evenly]"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    engine: EngineOption = None,
    grace: GraceOption = GRACE_S,
) -> None:
    """Pretrain the base with each of the best heads alone, and measure what it gains.

    A search predicts; solo runs measure, with the same base, data and length, with several seeds. \
Runs that have ended are not repeated: start the command again if it was interrupted.

    Example: [bold]headsearch verify results/RUN --top 3 --seeds 3[/bold]
    """
    console = console_here()
    chosen = EngineChoices(engine, grace) if engine is not None else None
    with importing(console):
        from headsearch.pretraining.session import run_verification
        from headsearch.pretraining.verification import Verification
        from headsearch.runs.run import read_run
    verification = Verification(
        read_run(run), top=top, seeds=seeds, controls=controls, jobs=jobs, threads=threads,
        device=device,
    )  # fmt: skip
    if chosen is not None:
        from headsearch.cluster.session import verify_on

        with resumable(console, "the same command"):
            spread, signal = verify_on(chosen, verification, console)
        print_notes(console, spread.failures)
    else:
        with resumable(console, "the same command"):
            signal = run_verification(verification, console)
    if signal:
        console.print("interrupted, all progress is saved: start the same command again")
        raise typer.Exit(128 + signal)
    conclude(run, console)

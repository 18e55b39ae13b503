"""Whole pretrainings and verifications, with progress display and signal handling.

The Python API and the command line both pretrain and verify through these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from headsearch import torchrun
from headsearch.data.image.skipped import listed_where_too_many
from headsearch.pretraining.display import points_of, shown, shown_verification
from headsearch.pretraining.run import Pretrained, Pretraining
from headsearch.pretraining.run import has_ended as pretraining_has_ended
from headsearch.pretraining.setup import PretrainingSetup, prepare_again
from headsearch.pretraining.solo import SoloEvent, SoloRun
from headsearch.pretraining.verification import Verification
from headsearch.report.session import carry_out, introduce
from headsearch.report.tensorboard import curves_written
from headsearch.runs.console import loading_shown, print_notes
from headsearch.runs.run import is_complete, is_pretraining
from headsearch.runs.signals import interrupted_while_loaded, stops_heard
from headsearch.training import distributed
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs

STOPPING_SOLO_RUNS = (
    "stopping the solo runs, which write a snapshot each; those that have ended are kept"
)


def has_ended(run_directory: Path) -> bool:
    """Whether a search or a pretraining is complete, so that there is nothing to resume.

    Raises:
        UserError: there is no such directory, or it is not a run's.
    """
    if is_pretraining(run_directory):
        return pretraining_has_ended(run_directory)
    return is_complete(run_directory)


def run_pretraining(
    planned: PretrainingSetup,
    directory: Path | None = None,
    console: Console | None = None,
    *,
    start_over: bool = False,
) -> tuple[Pretraining | None, int]:
    """Runs a pretraining.

    Args:
        planned: the setup.
        directory: the directory of an earlier process, to be resumed.
        console: where to show progress; None shows none.
        start_over: whether one whose snapshots are lost starts from its first step.

    Returns:
        The pretraining (None in all processes of a job but the first), and the number of the signal
        that stopped it; 0 if it ended.

    Raises:
        UserError: base or head diverged, or the directory cannot be written.
        InterruptedAtOnceError: Ctrl-C was pressed a second time.
    """
    if not torchrun.first():
        solo = SoloRun(planned.setup, planned.candidate)
        with stops_heard(solo.stop):
            solo.run()
        return None, 0
    running = Pretraining(planned, directory, start_over=start_over)
    with interrupted_while_loaded(running.run_directory):
        introduce(console, running.notes, running.run_directory)
        return running, carry_out(running, *observers_of(running, console), console=console)


def observers_of(
    pretraining: Pretraining, console: Console | None
) -> Iterator[AbstractContextManager[Callable[[SoloEvent], None]]]:
    """The observers of a pretraining: TensorBoard's curves if asked for, and the console's."""
    if pretraining.config.log == "tensorboard":
        yield curves_written(pretraining.run_directory, points_of, console)
    if console is not None:
        yield shown(pretraining, console)


def resume_pretraining(
    directory: Path,
    inputs: InMemoryInputs = NO_INPUTS,
    *,
    log: str | None = None,
    moved: Mapping[str, str] | None = None,
    start_over: bool = False,
    console: Console | None = None,
) -> tuple[Pretraining | None, int]:
    """Resumes a pretraining that has not ended.

    Args:
        directory: its directory.
        inputs: the objects that it was started with in Python.
        log: none or tensorboard; by default as it was started.
        moved: where data or weights lie now, by the names of their settings. A `space` among them
            says in which folder the module of a head of the user's own lies.
        start_over: whether one whose snapshots are lost starts from its first step.
        console: where to show progress; None shows none.

    Returns and raises as `run_pretraining`.
    """
    changed = {**(moved or {}), **({} if log is None else {"log": log})}
    with loading_shown(console) as loading, listed_where_too_many(directory):
        planned = prepare_again(directory, inputs, loading, changed)
    return run_pretraining(planned, directory, console, start_over=start_over)


def pretrained(running: Pretraining | None, signal: int) -> Pretrained:
    """The results of a pretraining, in every process of a job.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM stopped it after it wrote a snapshot.
    """
    if signal:
        raise KeyboardInterrupt
    if running is None:
        received: Pretrained = distributed.receive_object()
        return received
    result = Pretrained(running.run_directory, running.weights, running.scores, running.loading)
    distributed.broadcast_object(result)
    return result


def run_verification(verification: Verification, console: Console | None = None) -> int:
    """Runs the solo runs of a verification.

    Args:
        verification: the verification.
        console: where to show progress; None shows none.

    Returns:
        The number of the signal that stopped it; 0 if all solo runs have ended.
    """
    if console is None:
        return carry_out(verification)
    print_notes(console, verification.notes)
    shown_on = shown_verification(console)
    return carry_out(verification, shown_on, console=console, stopping=STOPPING_SOLO_RUNS)

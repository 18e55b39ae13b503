"""headsearch from Python: what the commands do, on names and files or on objects of one's own.

    import headsearch

    found = headsearch.search(base=my_model, space="heads.yaml", data=my_dataset)
    found.ranking                      # a pandas frame
    found.pretrain(rank=1).weights     # a file of the base's weights

Settings are those of the command line, by the same names and with the same defaults. What is wrong
with them is told by `headsearch.UserError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import pandas as pd
from torch import nn

from headsearch import torchrun
from headsearch.config.settings import flags_from
from headsearch.errors import UserError
from headsearch.models.bases import base_arguments, plan_base, plan_module
from headsearch.models.space import Space, as_space
from headsearch.pretraining import session as sessions
from headsearch.pretraining.export import Exported, export_from
from headsearch.pretraining.run import Pretrained, Pretraining
from headsearch.pretraining.run import has_ended as pretraining_has_ended
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.pretraining.verification import Verification
from headsearch.report import write_report
from headsearch.report.result import RunView
from headsearch.report.session import console_for
from headsearch.report.statistics.calibration import calibrate_runs
from headsearch.runs.run import is_pretraining, read_run
from headsearch.study.session import resume_search, run_search
from headsearch.training import distributed
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs, inputs_from


@dataclass(frozen=True, repr=False)
class Result(RunView):
    """A search, finished or not, read from its run directory.

    Attributes:
        inputs: the objects that the search was given in Python, which no file holds.
    """

    inputs: InMemoryInputs = field(default=NO_INPUTS)

    def pretrain(
        self, rank: int | None = None, *, head: str | Path | None = None, **settings: Any
    ) -> Pretrained:
        """Pretrains the search's base with a head of its ranking; see `headsearch.pretrain`."""
        return pretrain(self, rank=rank, head=head, **settings)

    def verify(self, **choices: Any) -> Result:
        """Pretrains the base with the best heads, each alone; see `headsearch.verify`."""
        return verify(self, **choices)

    def export(
        self,
        rank: int | None = None,
        *,
        head: str | Path | None = None,
        out: str | Path | None = None,
    ) -> Exported:
        """Writes a head of the ranking as YAML and as PyTorch; see `headsearch.export`."""
        return export(self, rank=rank, head=head, out=out)


def search(
    base: str | nn.Module = "vit_s",
    space: str | Path | Mapping[str, Any] | Space = "heads.yaml",
    data: Any = "scenes",
    eval_data: Any = None,
    *,
    progress: bool | None = None,
    **settings: Any,
) -> Result:
    """Trains candidate heads together, prunes the weak, ranks the rest: `headsearch run`.

    Args:
        base: a name, or a module of your own, which is copied and left as it is.
        space: a YAML file, the name of one that ships, a dict of the same form, or a `Space`.
        data: a name as for `--data`, or a map-style dataset that gives `(image, label)` or `image`:
            a PIL image, a uint8 tensor (3, H, W) or a float tensor in [0, 1].
        eval_data: likewise; held out of `data` where it is None.
        progress: whether to show how it goes; by default in a terminal or notebook.
        settings: those of `headsearch run`, as `epochs=3` for `--epochs 3`.

    Raises:
        UserError: a setting, the space or the data cannot be used, or the base diverged.
    """
    inputs = inputs_from(base, data, eval_data)
    flags = flags_from(settings, base=base, data=data, eval_data=eval_data)
    if isinstance(space, str | Path):
        flags["space"] = str(space)
    else:
        found = as_space(space)
        inputs, flags["space"] = replace(inputs, space=found), found.source
    return _result_of(*run_search(flags, inputs=inputs, console=console_for(progress)), inputs)


def resume(
    run: Result | str | Path,
    *,
    base: nn.Module | None = None,
    data: Any = None,
    eval_data: Any = None,
    space: Mapping[str, Any] | Space | None = None,
    log: str | None = None,
    progress: bool | None = None,
) -> Result:
    """Goes on with a search that was interrupted, from its last snapshot: `headsearch resume`.

    Args:
        run: the search.
        base, data, eval_data, space: what the search was given as objects, which no file holds.
        log: none or tensorboard; by default as it was begun.
        progress: whether to show how it goes; by default in a terminal or notebook.

    Returns:
        The search at its end; one that is complete as it is.

    Raises:
        UserError: no such run, or something that decides what it finds has changed since.
    """
    result = _result(run)
    if has_ended(result.run_directory):
        return result
    found = None if space is None else as_space(space)
    inputs = replace(inputs_from(base, data, eval_data), space=found)
    return _result_of(
        *resume_search(result.run, inputs=inputs, log=log, console=console_for(progress)), inputs
    )


def has_ended(run_directory: Path) -> bool:
    """Whether a search or a pretraining has come to its end, and cannot be resumed.

    Raises:
        UserError: there is no such directory, or it is no run's.
    """
    if is_pretraining(run_directory):
        return pretraining_has_ended(run_directory)
    return read_run(run_directory).facts.get("status") == "complete"


def _result_of(run_directory: Path, signal: int, inputs: InMemoryInputs) -> Result:
    """The result of a search that came to its end.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM stopped it, with a snapshot.
    """
    if signal:
        raise KeyboardInterrupt
    found = read_run(run_directory)
    if torchrun.first():
        write_report(found)
    return Result(found, inputs)


def load(run_directory: str | Path) -> Result:
    """A search read back, finished or not; `report` and `plot` of the command line start here.

    Raises:
        UserError: there is no such directory, or it is no search's.
    """
    return Result(read_run(Path(run_directory)))


def candidates(
    space: str | Path | Mapping[str, Any] | Space,
    base: str | nn.Module = "vit_s",
    image_size: int = 32,
    *,
    patch_size: int | None = None,
    base_args: str | None = None,
    limit: int = 200,
) -> pd.DataFrame:
    """The candidates of a space on a base and what they cost: `headsearch space`.

    Returns:
        A row a candidate: `candidate, family, control, params_m, params_share, gflops,
        gflops_share`; shares are of the base's.

    Raises:
        UserError: no such space or base, a mistake in the space, or more candidates than `limit`.
    """
    space = as_space(space)
    if isinstance(base, str):
        arguments = base_arguments(base, base_args)
        plan = plan_base(base, image_size, patch_size=patch_size, arguments=arguments)
    else:
        plan = plan_module(base, image_size)
    listing = space.on(plan).enumerate(limit)
    if listing is None:
        size = "infinitely many" if space.size is None else f"{space.size:,}"
        raise UserError(f"{space.source} has {size} points, more than limit={limit}")
    return listing.table(plan)


def pretrain(
    run: Result | str | Path | None = None,
    *,
    rank: int | None = None,
    head: str | Path | None = None,
    base: str | nn.Module | None = None,
    data: Any = None,
    eval_data: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> Pretrained:
    """Pretrains a base with one head, or with none, and keeps the base: `headsearch pretrain`.

    Args:
        run: a search whose base, data, objective, seed and training are repeated.
        rank: a rank of its ranking, by default the first.
        head: instead, a candidate's name, a YAML file of one head, or "none".
        base, data, eval_data: as for `search`; the run's own where they are left out.
        progress: whether to show how it goes; by default in a terminal or notebook.
        settings: those of `headsearch pretrain`; they win over the run's own.

    Raises:
        UserError: no such run, rank or head, settings that cannot be used, or it diverged.
    """
    result = _result(run)
    inputs = inputs_from(base, data, eval_data)
    flags = flags_from(settings, base=base, data=data, eval_data=eval_data)
    if result is not None:
        inputs = InMemoryInputs(
            base=inputs.base if base is not None else result.inputs.base,
            data=inputs.data if data is not None else result.inputs.data,
            eval_data=inputs.eval_data if eval_data is not None else result.inputs.eval_data,
        )
    planned = prepare_pretraining(
        flags,
        run=result.run if result is not None else None,
        rank=rank,
        head=None if head is None else str(head),
        inputs=inputs,
    )
    return _pretrained(*sessions.run_pretraining(planned, console=console_for(progress)))


def resume_pretraining(
    run_directory: str | Path,
    *,
    base: nn.Module | None = None,
    data: Any = None,
    eval_data: Any = None,
    log: str | None = None,
    progress: bool | None = None,
) -> Pretrained:
    """Goes on with a pretraining that was interrupted: `headsearch resume`.

    Args:
        run_directory: of the pretraining.
        base, data, eval_data: what it was given as objects, which no file holds.
        log: none or tensorboard; by default as it was begun.
        progress: whether to show how it goes; by default in a terminal or notebook.

    Raises:
        UserError: it is no pretraining, has ended, or something has changed since that decides what
            it comes to.
    """
    directory = Path(run_directory)
    if pretraining_has_ended(directory):
        raise UserError(f"{directory} has come to its end already: there is nothing to resume")
    inputs = inputs_from(base, data, eval_data)
    return _pretrained(
        *sessions.resume_pretraining(
            directory, inputs=inputs, log=log, console=console_for(progress)
        )
    )


def _pretrained(running: Pretraining | None, signal: int) -> Pretrained:
    """What a pretraining leaves, in every process of a job.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM stopped it, with a snapshot.
    """
    if signal:
        raise KeyboardInterrupt
    if running is None:
        kept: Pretrained = distributed.receive_object()
        return kept
    found = Pretrained(running.run_directory, running.weights, running.scores, running.loading)
    distributed.broadcast_object(found)
    return found


def export(
    run: Result | str | Path,
    *,
    rank: int | None = None,
    head: str | Path | None = None,
    out: str | Path | None = None,
) -> Exported:
    """Writes a head as YAML and as a PyTorch file of its own: `headsearch export`.

    Args:
        run: a search.
        rank: a rank of its ranking, by default the first.
        head: instead, a candidate's name or a YAML file of one head.
        out: the directory to write into; by default the run's own `heads/`.

    Raises:
        UserError: no such run, rank or head, or the files are there already.
    """
    _by_one_process("export")
    result = _result(run)
    return export_from(
        result.run,
        rank=rank,
        head=None if head is None else str(head),
        out=None if out is None else Path(out),
        inputs=result.inputs,
    ).files


def verify(
    run: Result | str | Path,
    *,
    top: int = 3,
    seeds: int = 3,
    controls: bool = True,
    jobs: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> Result:
    """Pretrains a search's base with its best heads, each alone: `headsearch verify`.

    Args:
        run: a search; not one that was given objects, which other processes cannot see.
        top: how many heads, from the first of the ranking.
        seeds: solo runs of each.
        controls: whether `identity` and the base's own kind of block run too; no head always does.
        jobs: solo runs at once; by default one a core, or one a GPU.
        threads: CPU threads of each; by default the cores are shared out.
        device: auto, cpu, cuda, cuda:1, ….
        progress: whether to show how it goes; by default in a terminal or notebook.

    Returns:
        The search with its gains: `ranking` has them, `solo` the runs, `verdict` what they say.

    Raises:
        UserError: no such run, or one that cannot be verified.
    """
    _by_one_process("verify")
    result = _result(run)
    found = Verification(
        result.run, top=top, seeds=seeds, controls=controls, jobs=jobs, threads=threads,
        device=device,
    )  # fmt: skip
    if sessions.run_verification(found, console_for(progress)):
        raise KeyboardInterrupt
    again = read_run(result.run_directory)
    write_report(again)
    return Result(again, result.inputs)


def calibrate(runs: Sequence[Result | str | Path], primary: str = "head_accuracy") -> pd.DataFrame:
    """How well each score ranks heads by what they gain the base alone: `headsearch calibrate`.

    Args:
        runs: verified searches over the same heads, each a seed.
        primary: the score that counts; the p-values of the others are corrected.

    Returns:
        A row a score: calibration.csv.

    Raises:
        UserError: too few heads were verified, or not all under the same seeds.
    """
    return calibrate_runs([_result(run).run for run in runs], primary).table()


def _by_one_process(name: str) -> None:
    """Raises UserError in a job of several, each of which would do all of it."""
    if torchrun.count() > 1:
        raise UserError(f"headsearch.{name} works in one process, and this is one of a job's")


@overload
def _result(run: Result | str | Path) -> Result: ...
@overload
def _result(run: None) -> None: ...
def _result(run: Result | str | Path | None) -> Result | None:
    return run if run is None or isinstance(run, Result) else load(run)


def _log(log: str | None) -> dict[str, str]:
    return {} if log is None else {"log": log}

"""The Python API: the functions of the command line, with names, files or your own objects.

    import headsearch

    result = headsearch.search(base=my_model, space="heads.yaml", data=my_dataset)
    result.pretrain(rank=1).weights

Settings have the command line's names and defaults. A user's mistakes raise `UserError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn
from typing_extensions import Unpack

from headsearch import torchrun
from headsearch.cluster import session as engines
from headsearch.config.given import flags_from
from headsearch.config.keywords import PretrainSettings, SearchSettings, VerifyChoices, api_function
from headsearch.errors import UserError
from headsearch.models.candidates import candidates as candidates
from headsearch.models.space import Space, as_space
from headsearch.pretraining import session as sessions
from headsearch.pretraining.explaining.result_view import ExplainableView
from headsearch.pretraining.export import Exported, export_from
from headsearch.pretraining.run import Pretrained
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.pretraining.verification import Verification
from headsearch.report import has_report, write_report
from headsearch.report.comparison import Comparison as Comparison
from headsearch.report.comparison import compare as compare
from headsearch.report.session import console_for
from headsearch.report.statistics.calibration import calibrate_runs
from headsearch.runs.run import is_pretraining, read_run
from headsearch.study.session import resume_search, run_search
from headsearch.training import distributed
from headsearch.training.inputs import InMemoryInputs, inputs_from, places_in


@dataclass(frozen=True, repr=False)
class Result(ExplainableView):
    """A search, complete or not, read from its run directory."""

    @api_function(PretrainSettings)
    def pretrain(
        self,
        rank: int | None = None,
        *,
        head: str | Path | None = None,
        base: str | nn.Module | None = None,
        data: Any = None,
        eval_data: Any = None,
        progress: bool | None = None,
        **settings: Unpack[PretrainSettings],
    ) -> Pretrained:
        """Pretrains the search's base with one head of its ranking; see `headsearch.pretrain`."""
        return pretrain(
            self, rank=rank, head=head, base=base, data=data, eval_data=eval_data,
            progress=progress, **settings,
        )  # fmt: skip

    @api_function(VerifyChoices)
    def verify(self, **choices: Unpack[VerifyChoices]) -> Result:
        """Pretrains the base with the best heads, each alone; see `headsearch.verify`."""
        return verify(self, **choices)

    def export(
        self,
        rank: int | None = None,
        *,
        head: str | Path | None = None,
        out: str | Path | None = None,
    ) -> Exported:
        """Writes a head of the ranking as YAML and as PyTorch code; see `headsearch.export`."""
        return export(self, rank=rank, head=head, out=out)


@api_function(SearchSettings)
def search(
    base: str | nn.Module = "vit_mini",
    space: str | Path | Mapping[str, Any] | Space | None = None,
    data: Any = "scenes",
    eval_data: Any = None,
    *,
    engine: str | None = None,
    progress: bool | None = None,
    **settings: Unpack[SearchSettings],
) -> Result:
    """Trains candidate heads together, prunes the weak, ranks the rest: `headsearch run`.

    Args:
        base: a name, or a module of your own, which is copied and not changed.
        space: a YAML file, the name of a built-in space, a dict of the same form, or a `Space`; by
            default `heads.yaml`, and `sequence.yaml` for clips and texts.
        data: a name as for `--data`, or a map-style dataset of `(image, label)`, `image` or
            `{"image": image, "label": label}` (as Hugging Face's), where an image is a PIL image,
            a uint8 tensor (3, H, W) or a float tensor in [0, 1].
        eval_data: the evaluation images, likewise; by default held out of `data`.
        engine: trains cohorts as tasks of Ray: local, auto or ray://HOST:PORT.
        progress: whether to show progress; by default only in a terminal or notebook.
        settings: those of `headsearch run`, for example `epochs=3` for `--epochs 3`.

    Raises:
        UserError: a setting, the space or the data cannot be used, or the base diverged.
    """
    inputs = inputs_from(base, data, eval_data)
    flags = flags_from(settings, base=base, data=data, eval_data=eval_data)
    if isinstance(space, str | Path):
        flags["space"] = str(space)
    elif space is not None:
        own_space = as_space(space)
        inputs, flags["space"] = replace(inputs, space=own_space), own_space.source
    console = console_for(progress)
    if engine is not None:
        return _result_of(*engines.search_on(engine, flags, inputs, console), inputs)
    return _result_of(*run_search(flags, inputs=inputs, console=console), inputs)


@api_function()
def resume(
    run: Result | str | Path,
    *,
    base: nn.Module | None = None,
    data: Any = None,
    eval_data: Any = None,
    base_weights: str | Path | None = None,
    space: str | Path | Mapping[str, Any] | Space | None = None,
    dense_data: str | Path | None = None,
    tasks: str | None = None,
    log: str | None = None,
    start_over: bool = False,
    engine: str | None = None,
    progress: bool | None = None,
) -> Result:
    """Resumes a search that was interrupted from its last snapshot: `headsearch resume`.

    Args:
        run: the search.
        base, data, eval_data, space: the objects that the search was started with.
        data, eval_data, base_weights, space, dense_data: paths, if what lies there was moved.
        tasks: the further tasks with their new paths, if these were moved.
        log: none or tensorboard; by default as the search was started.
        start_over: whether a search whose snapshots are lost starts from its first step.
        engine: as for `search`; by default the one that it began with.
        progress: whether to show progress; by default only in a terminal or notebook.

    Returns:
        The search at its end. To one that is complete, only a missing report is added.

    Raises:
        UserError: no such run, or what decides its results has changed.
    """
    result = _result(run)
    if sessions.has_ended(result.run_directory):
        if torchrun.first() and not has_report(result.run_directory):
            write_report(result.run)
        return result
    own = None if space is None or isinstance(space, str | Path) else as_space(space)
    inputs = replace(inputs_from(base, data, eval_data), space=own)
    moved = places_in(
        data=data, eval_data=eval_data, base_weights=base_weights, space=space,
        dense_data=dense_data, tasks=tasks,
    )  # fmt: skip
    console = console_for(progress)
    done = engines.resume_on(engine, result.run, moved, console) or resume_search(
        result.run, inputs=inputs, log=log, moved=moved, start_over=start_over, console=console
    )
    return _result_of(*done, inputs)


def _result_of(run_directory: Path, signal: int, inputs: InMemoryInputs) -> Result:
    """The result of a search that has ended.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM stopped it after it wrote a snapshot.
    """
    if signal:
        raise KeyboardInterrupt
    run = read_run(run_directory)
    if torchrun.first():
        write_report(run)
    return Result(run, inputs)


@api_function()
def load(run_directory: str | Path) -> Result:
    """Reads a search, complete or not. `Result.report` and `Result.plot` work on what it returns.

    Raises:
        UserError: there is no such directory, or it is not a search's.
    """
    return Result(read_run(Path(run_directory)))


@api_function(PretrainSettings)
def pretrain(
    run: Result | str | Path | None = None,
    *,
    rank: int | None = None,
    head: str | Path | None = None,
    base: str | nn.Module | None = None,
    data: Any = None,
    eval_data: Any = None,
    progress: bool | None = None,
    **settings: Unpack[PretrainSettings],
) -> Pretrained:
    """Pretrains a base with one head or none, and saves the base: `headsearch pretrain`.

    Args:
        run: a search whose base, data, objective, seed and training are repeated.
        rank: a rank of its ranking, by default the first.
        head: instead of a rank: a candidate's name, a YAML file of one head, or "none".
        base, data, eval_data: as for `search`; by default those of the run.
        progress: whether to show progress; by default only in a terminal or notebook.
        settings: those of `headsearch pretrain`; they override those of the run.

    Raises:
        UserError: no such run, rank or head, settings that cannot be used, or it diverged.
    """
    result = None if run is None else _result(run)
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
    return sessions.pretrained(*sessions.run_pretraining(planned, console=console_for(progress)))


@api_function()
def resume_pretraining(
    run_directory: str | Path,
    *,
    base: nn.Module | None = None,
    data: Any = None,
    eval_data: Any = None,
    base_weights: str | Path | None = None,
    dense_data: str | Path | None = None,
    tasks: str | None = None,
    log: str | None = None,
    start_over: bool = False,
    progress: bool | None = None,
) -> Pretrained:
    """Resumes a pretraining that was interrupted from its last snapshot: `headsearch resume`.

    Args:
        run_directory: the directory of the pretraining.
        base, data, eval_data: the objects that it was started with; a path if it was moved.
        base_weights, dense_data, tasks: paths, or tasks with their paths, if these were moved.
        log: none or tensorboard; by default as it was started.
        start_over: whether one whose snapshots are lost starts from its first step.
        progress: whether to show progress; by default only in a terminal or notebook.

    Raises:
        UserError: it is no pretraining, it is complete, or what decides its results has changed.
    """
    directory = Path(run_directory)
    if is_pretraining(directory) and sessions.has_ended(directory):
        raise UserError(f"{directory} is complete: there is nothing to resume")
    inputs = inputs_from(base, data, eval_data)
    moved = places_in(
        data=data, eval_data=eval_data, base_weights=base_weights, dense_data=dense_data,
        tasks=tasks,
    )  # fmt: skip
    done = sessions.resume_pretraining(
        directory, inputs, log=log, moved=moved, start_over=start_over,
        console=console_for(progress),
    )  # fmt: skip
    return sessions.pretrained(*done)


@api_function()
def export(
    run: Result | str | Path,
    *,
    rank: int | None = None,
    head: str | Path | None = None,
    out: str | Path | None = None,
) -> Exported:
    """Writes a head as YAML and as a stand-alone PyTorch file: `headsearch export`.

    Args:
        run: a search.
        rank: a rank of its ranking, by default the first.
        head: instead of a rank: a candidate's name or a YAML file of one head.
        out: the directory to write into; by default `heads/` in the run directory.

    Raises:
        UserError: no such run, rank or head, or the files exist already.
    """
    distributed.check_one_process("export")
    result = _result(run)
    return export_from(
        result.run,
        rank=rank,
        head=None if head is None else str(head),
        out=None if out is None else Path(out),
        inputs=result.inputs,
    ).files


@api_function()
def verify(
    run: Result | str | Path,
    *,
    top: int = 3,
    seeds: int = 3,
    controls: bool = True,
    jobs: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    engine: str | None = None,
    progress: bool | None = None,
) -> Result:
    """Pretrains a search's base with each of its best heads alone: `headsearch verify`.

    Args:
        run: a search that was started with names, not with objects: processes of their own train.
        top: the number of heads, from the top of the ranking.
        seeds: the number of solo runs of each head.
        controls: whether to run `identity` and the base's own kind of block too. The base without
            a head is always run.
        jobs: solo runs at a time; by default one for each CPU core or GPU.
        threads: CPU threads of each run; by default the cores are divided evenly.
        device: auto, cpu, cuda, cuda:1, ….
        engine: as for `search`; `jobs` then has no effect.
        progress: whether to show progress; by default only in a terminal or notebook.

    Returns:
        The search with its gains: see its `ranking`, `solo` and `verdict`.

    Raises:
        UserError: no such run, or one that cannot be verified.
    """
    distributed.check_one_process("verify")
    result = _result(run)
    verification = Verification(
        result.run, top=top, seeds=seeds, controls=controls, jobs=jobs, threads=threads,
        device=device,
    )  # fmt: skip
    signal = engines.verified_on(engine, verification, console_for(progress))
    return _result_of(result.run_directory, signal, result.inputs)


@api_function()
def calibrate(runs: Sequence[Result | str | Path], primary: str = "head_accuracy") -> pd.DataFrame:
    """How well each score of a search predicts the gains of heads: `headsearch calibrate`.

    Args:
        runs: verified searches over the same heads, each with another seed.
        primary: the score that counts; the p-values of the others are corrected.

    Returns:
        A row for each score, as in calibration.csv.

    Raises:
        UserError: too few heads were verified, or not all with the same seeds.
    """
    return calibrate_runs([_result(run).run for run in runs], primary).table()


def _result(run: Result | str | Path) -> Result:
    return run if isinstance(run, Result) else load(run)

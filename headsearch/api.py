"""headsearch from Python: what the commands do, on names and files or on objects of one's own.

    import headsearch

    found = headsearch.search(base=my_model, space="heads.yaml", data=my_dataset)
    found.ranking                      # a pandas frame
    found.pretrain(rank=1).weights     # a file of the base's weights

Settings are those of the command line, by the same names and with the same defaults. What is wrong
with them is told by `headsearch.UserError`.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import optuna
import pandas as pd
from rich.console import Console
from torch import nn

from headsearch import torchrun
from headsearch.boards import events_of
from headsearch.config.settings import RunConfig
from headsearch.config.yaml_file import located
from headsearch.data import DatasetSource, Source
from headsearch.data.image.skipped import listed_where_too_many
from headsearch.errors import UserError, unknown
from headsearch.models.bases import base_arguments, plan_base, plan_module
from headsearch.models.space import Space, find_space, load_space, read_space
from headsearch.pretraining.display import show_pretraining, show_verification
from headsearch.pretraining.export import Exported, export_from
from headsearch.pretraining.run import Pretrained, Pretraining, has_ended
from headsearch.pretraining.setup import PretrainingSetup, prepare_again, prepare_pretraining
from headsearch.pretraining.solo import SoloRun
from headsearch.pretraining.verification import Verification
from headsearch.report import Table, advice, plot_columns, ranking_table, verdict, write_report
from headsearch.report.console import HarmlessConsole, print_notes
from headsearch.report.statistics.calibration import calibrate_runs
from headsearch.report.statistics.gains import verified
from headsearch.runs.run import Run, read_run
from headsearch.runs.signals import stops_heard
from headsearch.runs.tables import ranked
from headsearch.study.display import show
from headsearch.study.followers import follow
from headsearch.study.search import Search, prepared_again
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training import distributed
from headsearch.training.environment import resolve_here
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs

_Running = TypeVar("_Running", Search, Pretraining)


@dataclass(frozen=True, repr=False)
class Result:
    """A search, finished or not, read from its run directory."""

    run: Run
    inputs: InMemoryInputs = field(default=NO_INPUTS)
    """What the search was given as objects, which no file holds."""

    @property
    def run_directory(self) -> Path:
        return self.run.path

    @property
    def ranking(self) -> pd.DataFrame:
        """ranking.csv: a row a candidate, best first."""
        return self.run.ranking.copy()

    @property
    def rungs(self) -> pd.DataFrame:
        """rungs.csv: a row a candidate and rung."""
        return self.run.rungs.copy()

    @property
    def best(self) -> str | None:
        """The first-ranked candidate that is no control and did not collapse or fail, if any."""
        rows = ranked(self.run.ranking)
        return next((row.candidate for row in rows if row.healthy and not row.control), None)

    @property
    def advice(self) -> str:
        """Which head to take, why, and how sure that is."""
        return advice(self.run)

    def report(self) -> Path:
        """Writes report.md, report.html and the plots; returns report.html."""
        return write_report(self.run)

    def plot(
        self, x: str = "discrepancy", y: str = "head_knn", out: str | Path | None = None
    ) -> Path:
        """Plots any column of `ranking` or `rungs` against another; returns the file."""
        target = self.run_directory / "plots" / f"{y}-over-{x}.png" if out is None else Path(out)
        return plot_columns(self.run, x, y, target)

    def pretrain(
        self, rank: int | None = None, *, head: str | Path | None = None, **settings: Any
    ) -> Pretrained:
        """Pretrains the search's base with a head of its ranking; see `headsearch.pretrain`."""
        return pretrain(self, rank=rank, head=head, **settings)

    def verify(self, **choices: Any) -> Result:
        """Pretrains the base with the best heads, each alone; see `headsearch.verify`."""
        return verify(self, **choices)

    @property
    def verdict(self) -> str | None:
        """What the solo runs of `verify` say, None without any."""
        found = verified(self.run)
        return verdict(found) if found is not None else None

    @property
    def solo(self) -> pd.DataFrame:
        """solo.csv: a row a solo run of `verify`."""
        return self.run.solo.copy()

    def export(
        self,
        rank: int | None = None,
        *,
        head: str | Path | None = None,
        out: str | Path | None = None,
    ) -> Exported:
        """Writes a head of the ranking as YAML and as PyTorch; see `headsearch.export`."""
        return export(self, rank=rank, head=head, out=out)

    def __repr__(self) -> str:
        return f"<headsearch result {str(self.run_directory)!r}: {self.advice}>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.advice)}</p>{_html(ranking_table(self.run, compact=True))}"


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
    inputs = _inputs(base, data, eval_data)
    flags = _flags(settings, base=base, data=data, eval_data=eval_data)
    if isinstance(space, str | Path):
        flags["space"] = str(space)
    else:
        found = space if isinstance(space, Space) else _read_space(space)
        inputs, flags["space"] = replace(inputs, space=found), found.source
    config = resolve_here(flags)
    with _quiet_optuna():
        return _searched(prepare(config, inputs=inputs), None, progress, inputs)


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
    assert result is not None
    if result.run.facts.get("status") == "complete":
        return result
    found = None if space is None else space if isinstance(space, Space) else _read_space(space)
    inputs = replace(_inputs(base, data, eval_data), space=found)
    with _quiet_optuna():
        with listed_where_too_many(result.run_directory):
            prepared = prepared_again(result.run, inputs, _log(log))
        return _searched(prepared, result.run_directory, progress, inputs)


def _read_space(space: Mapping[str, Any]) -> Space:
    return read_space(located(space, "space"), "space")


def _searched(
    prepared: SearchSetup, directory: Path | None, progress: bool | None, inputs: InMemoryInputs
) -> Result:
    """Runs a search to its end; Ctrl-C and SIGTERM leave a snapshot, shown or in silence.

    Of a job's processes the first searches, and the others take part.
    """
    if not torchrun.first():
        with stops_heard(threading.Event()):
            return Result(read_run(follow(prepared)), inputs)
    running = Search(prepared, directory)
    running.prepared.data.left_out.list_in(running.run_directory)
    _to_the_end(running, show, progress)
    found = read_run(running.run_directory)
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
    if isinstance(space, str | Path):
        space = load_space(find_space(str(space)))
    elif not isinstance(space, Space):
        space = read_space(located(space, "space"), "space")
    if isinstance(base, str):
        arguments = base_arguments(base, base_args)
        plan = plan_base(base, image_size, patch_size=patch_size, arguments=arguments)
    else:
        plan = plan_module(base, image_size)
    listing = space.on(plan).enumerate(limit)
    if listing is None:
        size = "infinitely many" if space.size is None else f"{space.size:,}"
        raise UserError(f"{space.source} has {size} points, more than limit={limit}")
    return pd.DataFrame(
        {
            "candidate": candidate.name,
            "family": candidate.family,
            "control": candidate.control,
            "params_m": candidate.params_m,
            "params_share": candidate.params_m / plan.params_m,
            "gflops": candidate.gflops,
            "gflops_share": candidate.gflops / plan.gflops,
        }
        for candidate in listing.candidates
    )


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
    inputs = _inputs(base, data, eval_data)
    flags = _flags(settings, base=base, data=data, eval_data=eval_data)
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
    return _pretrained(planned, None, progress)


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
    if has_ended(directory):
        raise UserError(f"{directory} has come to its end already: there is nothing to resume")
    with listed_where_too_many(directory):
        planned = prepare_again(directory, _inputs(base, data, eval_data), flags=_log(log))
    return _pretrained(planned, directory, progress)


def _pretrained(
    planned: PretrainingSetup, directory: Path | None, progress: bool | None
) -> Pretrained:
    """Runs a pretraining to its end; Ctrl-C and SIGTERM leave a snapshot, shown or in silence.

    Of a job's processes the first keeps what comes of it, and the others take part.
    """
    if not torchrun.first():
        solo = SoloRun(planned.setup, planned.candidate)
        with stops_heard(solo.stop):
            _exhaust(solo.run())
        kept: Pretrained = distributed.receive_object()
        return kept
    running = Pretraining(planned, directory)
    _to_the_end(running, show_pretraining, progress)
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
    assert result is not None
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
    assert result is not None
    found = Verification(
        result.run, top=top, seeds=seeds, controls=controls, jobs=jobs, threads=threads,
        device=device,
    )  # fmt: skip
    console = _console(progress)
    if console is None:
        _exhaust(found.carry_out())
    else:
        print_notes(console, found.notes)
        show_verification(found, console)
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
    found = [_result(run) for run in runs]
    return calibrate_runs([each.run for each in found if each is not None], primary).table()


def _by_one_process(name: str) -> None:
    """Raises UserError in a job of several, each of which would do all of it."""
    if torchrun.count() > 1:
        raise UserError(f"headsearch.{name} works in one process, and this is one of a job's")


def _result(run: Result | str | Path | None) -> Result | None:
    return run if run is None or isinstance(run, Result) else load(run)


def _inputs(base: Any, data: Any, eval_data: Any) -> InMemoryInputs:
    """The objects among these, where a name is not one."""
    if base is not None and not isinstance(base, str | nn.Module):
        raise UserError(f"base must be a name or a torch.nn.Module, but is a {type(base).__name__}")
    return InMemoryInputs(
        base=base if isinstance(base, nn.Module) else None,
        data=_source(data),
        eval_data=_source(eval_data),
    )


def _source(data: Any) -> Source | None:
    if data is None or isinstance(data, str | Path):
        return None
    return data if isinstance(data, Source) else DatasetSource(data)


def _flags(settings: Mapping[str, Any], **objects: Any) -> dict[str, Any]:
    """Settings as the command line would have them; an object goes by the name of its class."""
    for name in settings:
        if name not in RunConfig.model_fields:
            raise unknown("setting", name, RunConfig.model_fields)
    named = {
        name: str(value) if isinstance(value, str | Path) else type(value).__name__
        for name, value in objects.items()
        if value is not None
    }
    return {**settings, **named}


def _log(log: str | None) -> dict[str, str]:
    return {} if log is None else {"log": log}


def _to_the_end(
    running: _Running, shown_by: Callable[[_Running, Console], int], progress: bool | None
) -> None:
    """Runs a search or a pretraining to its end, shown or in silence.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM ended it, with a snapshot.
    """
    console = _console(progress)
    with stops_heard(running.stop) as heard:
        if console is None:
            _exhaust(events_of(running))
            signal = heard.number
        else:
            print_notes(console, running.notes)
            console.print(f"run directory: {running.run_directory}", soft_wrap=True)
            signal = shown_by(running, console) or heard.number
    if signal and not running.complete:
        raise KeyboardInterrupt


def _exhaust(events: Generator[object, None, None]) -> None:
    """Runs to its end what nobody watches."""
    with closing(events):
        for _ in events:
            pass


def _console(progress: bool | None) -> Console | None:
    """Where progress is shown, None for nowhere."""
    console = HarmlessConsole(highlight=False, markup=False)
    shown = console.is_terminal or console.is_jupyter if progress is None else progress
    return console if shown else None


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keeps Optuna from reporting every trial on its own within this block."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _html(table: Table) -> str:
    def row(cells: list[str], tag: str) -> str:
        sides = ("right" if numeric else "left" for numeric in table.numeric)
        written = (
            f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(written)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    head = row(table.headings, "th")
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"

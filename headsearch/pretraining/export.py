"""`export`: writes a head as a YAML search space and as a stand-alone PyTorch file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from headsearch.config.settings import Coupling
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan, plan_module
from headsearch.models.heads import Family, Value
from headsearch.models.heads.standalone import Sources, call, literal
from headsearch.models.space import Candidate, space_text
from headsearch.pretraining.head_selection import Head, head_on, name_at, written_head
from headsearch.runs.directory import write_atomically
from headsearch.runs.run import Run
from headsearch.runs.tables import NO_HEAD
from headsearch.text import for_file_name, with_article
from headsearch.training.base_plan import plan_of_run, shape_of_run
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs
from headsearch.version import VERSION


class Exported(NamedTuple):
    """The files of an exported head; `python` is None if its family is the user's own code."""

    yaml: Path
    python: Path | None


class ExportedHead(NamedTuple):
    """An exported head, its files, and notes for the user, one line each."""

    candidate: Candidate
    files: Exported
    notes: list[str]


def export_from(
    run: Run,
    *,
    rank: int | None = None,
    head: str | None = None,
    out: Path | None = None,
    inputs: InMemoryInputs = NO_INPUTS,
) -> ExportedHead:
    """Exports a head of a search, fitted to its base.

    Args:
        run: the search.
        rank: a rank of its ranking; the first if neither this nor `head` is given.
        head: a candidate's name, or a YAML file of one head.
        out: the directory to write into; by default `heads/` in the run directory.
        inputs: the base, if the search was started with a module.

    Raises:
        UserError: no such rank or head, or what `export_head` raises.
    """
    if rank is not None and head is not None:
        raise UserError("--rank and --head both choose a head: give one of them")
    if head == NO_HEAD:
        raise UserError(f"--head {NO_HEAD}: there is nothing to export")
    notes = []
    if head is None:
        head, note = name_at(run, 1 if rank is None else rank)
        notes += [note] if note else []
    if isinstance(inputs.base, nn.Module):
        plan = plan_module(inputs.base, shape_of_run(run))
    else:
        plan = plan_of_run(run, shape_only=True)
    chosen = head_on(plan, head, run)
    notes += chosen.notes
    if chosen.origin:
        # Such a family is code that the user has already.
        notes.append(f"{chosen.candidate.family} is a family of your own: no PyTorch is written")
    # Runs made before the setting existed had joint heads.
    coupling: Coupling = "observe" if run.config.get("coupling") == "observe" else "joint"
    folder = run.path / "heads" if out is None else out
    files = export_head(chosen, plan, folder, coupling)
    return ExportedHead(chosen.candidate, files, notes)


def export_head(head: Head, plan: BasePlan, out: Path, coupling: Coupling = "joint") -> Exported:
    """Writes `<candidate>.yaml` and `<candidate>.py` into a directory, which is made if missing.

    A head of a user's own family gets the YAML file only: the user has its code already.

    Raises:
        UserError: one of the files exists already or cannot be written.
    """
    name = for_file_name(head.candidate.name)
    files = Exported(out / f"{name}.yaml", None if head.origin else out / f"{name}.py")
    texts = {files.yaml: head_text(head, plan)}
    if files.python is not None:
        texts[files.python] = snippet_text(head.candidate, plan, coupling)
    for path in texts:
        if path.exists():
            raise UserError(f"{path} exists already; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{out}: cannot write there: {error.strerror}") from None
    return files


HOW_TO_ATTACH = '''
    """The head, with fresh weights: maps (B, dim, rows, columns) to the same shape.

    How to attach it (heterogeneous self-supervised learning, arXiv 2310.05108):

    - It takes the base's patch tokens as a map, THE_GRADIENT,
      as they are THE_MAP:
      `base_map = tokens.transpose(1, 2).reshape(-1, dim, *grid)`, without class tokens.
    - Its output has a norm of its own: `nn.LayerNorm(dim)` on
      `build_head()(base_map).flatten(2).transpose(1, 2)`. The mean over these tokens is the
      head's summary of THE_SAMPLE; it goes through a projector of its own.
    - If the objective has a teacher, a moving average of the student, the teacher has the head
      too. WHO_LEARNS.
    - After pretraining it is thrown away.
    """'''
"""The docstring of the exported function: how other training code has to use the head."""

ATTACHED: Mapping[Coupling, tuple[str, str]] = {
    "joint": (
        "NOT detached",
        """The base learns to match the head's output for the other crop, and so does
      the head""",
    ),
    "observe": (
        "DETACHED as in the search that ranked it",
        """In that search the head observed: the base trained on its own loss, and only
      the head on the head's. For a base that learns from the head, as in the paper and in
      `headsearch pretrain`, do not detach the map: base and head then both learn to match the
      head's output for the other crop""",
    ),
}
"""By coupling of the search: whether the head's input is detached, and who learns from the head."""


def head_text(head: Head, plan: BasePlan) -> str:
    """The head as YAML: a search space with this head and no other."""
    candidate = head.candidate
    return space_text(
        written_head(candidate, head.origin),
        f"The head {candidate.name} as a search space of its own, from headsearch export:",
        f"{candidate.params_m:.2f} M parameters, {candidate.gflops:.3f} GFLOPs "
        f"{with_article(plan.input_shape.sample)}. On",
        f"{plan}.",
    )


def snippet_text(candidate: Candidate, plan: BasePlan, coupling: Coupling = "joint") -> str:
    """The head as a Python file that needs only torch and timm (see `models.heads.standalone`).

    Args:
        candidate: the head.
        plan: the base that it is fitted to.
        coupling: how the head was attached in the search, for the file's docstring.
    """
    dim, grid = plan.stages[candidate.feature_index]
    family = candidate.made_by
    function, values = _innermost(family, family.settled(dim, grid, candidate.parameters))
    sources = Sources(
        lambda part: part.settled(dim, grid, {}),
        [value for value in values.values() if isinstance(value, str)],
    )
    build = sources.add(function)
    arguments = [f"{name}={literal(value)}" for name, value in values.items()]
    made = call(build, ["dim", "grid", *arguments], 4) if values else f"{build}(dim, grid)"
    build_head = (
        f"def build_head(dim: int = {dim}, grid: tuple[int, int] = {grid}) -> nn.Module:"
        f"{_how_to_attach(candidate.feature_index, coupling, plan.input_shape.sample)}\n"
        f"    return {made}"
    )
    rows, columns = grid
    header = (
        f"The auxiliary head {candidate.name}.\n\n"
        f"For a base of width {dim} with a map of {rows}×{columns} tokens. Written by\n"
        f"headsearch {VERSION} (Apache-2.0); needs torch and timm alone."
    )
    return f'"""{header}\n"""\n\n{sources.text(build_head)}'


def _how_to_attach(feature_index: int, coupling: Coupling, sample: str) -> str:
    """The docstring of the exported function."""
    gradient, learners = ATTACHED[coupling]
    text = HOW_TO_ATTACH.replace("THE_MAP", _map_words(feature_index))
    text = text.replace("THE_SAMPLE", with_article(sample))
    return text.replace("THE_GRADIENT", gradient).replace("WHO_LEARNS", learners)


def _map_words(feature_index: int) -> str:
    """The words that say which of the base's feature maps a head takes."""
    if feature_index == 0:
        return "before the base's final norm"
    last = "block" if feature_index == 1 else f"{feature_index} blocks"
    return f"before the base's last {last} (stages, in a base of stages)"


def _innermost(
    family: Family, values: Mapping[str, Value]
) -> tuple[Callable[..., nn.Module], Mapping[str, Value]]:
    """The function that builds a family's head, and the arguments to call it with.

    A family may wrap another one to add parameters to it. If the added parameters are at their
    defaults, they change nothing, and the wrapped family's function is shorter to read.
    """
    wrapped = inspect.getclosurevars(family.build).nonlocals.get("family")
    if isinstance(wrapped, Family):
        added = values.keys() - wrapped.parameters.keys()
        if all(values[name] == family.parameters[name].default for name in added):
            inner_values = {name: values[name] for name in values if name not in added}
            return _innermost(wrapped, inner_values)
    return family.build, values

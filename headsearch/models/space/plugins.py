"""User-defined head families: a class in a user's file, or an entry point of a package.

Reading such a family EXECUTES its code. Only families that the space names are read. Reading
somebody else's space therefore means running their code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from headsearch.config.yaml_file import Located
from headsearch.errors import UserError, unknown
from headsearch.models.heads import (
    Cost,
    Family,
    Grid,
    Parameter,
    Value,
    head_cost,
    with_common_parameters,
)
from headsearch.models.space.reader import listed
from headsearch.models.user_code import ANY_ERROR, one_line, without_exit
from headsearch.text import with_article

ENTRY_POINTS = "headsearch.families"
"""The entry point group in which a package offers families: by the name of the family, a `Family`
or a function that returns one."""
ORIGIN_KEYS = ("module", "sha256", "package")
"""Keys of a space's entry that record the origin of a family. headsearch writes `sha256` and
`package` into the space of a run and compares them when the space is read again."""
LARGEST_NUMBER = 1e9
"""The bound, up and down, of numbers in user-defined families, which declare no bounds."""

LONGEST_NAME = 64
"""Characters of a family's name: it is part of the names of files."""


@dataclass(frozen=True)
class UserFamily:
    """A user-defined family and its origin.

    Attributes:
        family: the family, with the parameters that all families have.
        origin: the values for `ORIGIN_KEYS` that the space records.
        where: the file and line that name the family.
    """

    family: Family
    origin: Mapping[str, str]
    where: str

    def cost(self, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> tuple[Cost, str]:
        """The cost of a head, and one line on why it cannot be built; empty if it can."""
        try:
            with without_exit():
                return head_cost(self.family, dim, grid, parameters), ""
        except UserError as error:
            return Cost(math.nan, math.nan), str(error)
        except ANY_ERROR as error:
            at = f"on {with_article(f'{grid[0]}×{grid[1]} map')} of width {dim}"
            return Cost(math.nan, math.nan), f"{self.family.name} {at}: {one_line(error)}"


def read_user_families(
    node: Located | None, folder: Path, taken: Collection[str]
) -> dict[str, UserFamily]:
    """Reads the user-defined families among a space's `families`, by name.

    Args:
        node: the entry `families` of the space.
        folder: the folder of the space's file; paths in the file are relative to it.
        taken: the names of headsearch's own families and controls.

    Raises:
        UserError: with the line, if a family is not found, does not load, or cannot be a head.
    """
    found: dict[str, UserFamily] = {}
    for name, where, value in listed(node):
        entries = value.value if isinstance(value.value, dict) else {}
        try:
            if "module" in entries:
                _check_name(name, taken)
                found[name] = _from_module(name, where, entries, folder)
            elif name not in taken and name in packaged_families():
                found[name] = _from_package(name, where)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if name in found:
            _check_unchanged(name, entries, found[name].origin)
    return found


def without_origins(node: Located | None, names: Collection[str]) -> Located | None:
    """Removes the `ORIGIN_KEYS` from the entries of these families, which leaves parameters."""
    if node is None or not names:
        return node
    if isinstance(node.value, list):
        items = [without_origins(item, names) or item for item in node.value]
        return replace(node, value=items)
    if isinstance(node.value, dict):
        return replace(
            node,
            value={
                name: _without_origin(value) if name in names else value
                for name, value in node.value.items()
            },
        )
    return node


def _without_origin(entry: Located) -> Located:
    if not isinstance(entry.value, dict):
        return entry
    parameters = {name: value for name, value in entry.value.items() if name not in ORIGIN_KEYS}
    return replace(entry, value=parameters)


def packaged_families() -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of families in installed packages, by name; none of them is loaded."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _check_name(name: str, taken: Collection[str]) -> None:
    if name in taken:
        raise UserError(f"{name!r} is headsearch's own; give your family another name")
    if len(name) > LONGEST_NAME:
        raise UserError(
            f"a family's name has at most {LONGEST_NAME} characters, but that of {name[:20]}… has "
            f"{len(name)}"
        )
    if not re.fullmatch("[a-z0-9]+", name):
        raise UserError(f"a family's name has lower-case letters and digits, but is {name!r}")


def _check_unchanged(name: str, entries: Mapping[str, Located], origin: Mapping[str, str]) -> None:
    """Raises UserError if the code of a family differs from the one recorded in the space."""
    for key in ("sha256", "package"):
        if key in entries and entries[key].value != origin.get(key):
            raise entries[key].error(
                f"{name} is no longer the one that this space was written with: {key} is "
                f"{origin.get(key)} now; delete this line to use the present version"
            )


def _from_module(name: str, where: str, entries: Mapping[str, Located], folder: Path) -> UserFamily:
    spec = entries["module"].value
    target, _, attribute = spec.rpartition(":") if isinstance(spec, str) else ("", "", "")
    if not target or not attribute:
        shown = entries["module"].shown()
        raise UserError(f"module must be FILE.py:NAME or package.module:NAME, but is {shown}")
    module, digest = _loaded(target, folder)
    made = getattr(module, attribute, None)
    if made is None:
        names = [known for known in vars(module) if not known.startswith("_")]
        raise unknown(f"name in {target}", attribute, names)
    if not callable(made):
        raise UserError(f"{attribute} in {target} is no class or function")
    family = _family(name, str(spec), made, entries)
    origin = {"module": str(spec), "sha256": digest}
    return UserFamily(with_common_parameters(family), origin, where)


class _SourceOf(SourceLoader):
    """A loader for source bytes that were read before.

    It executes exactly the bytes that were hashed, even if the file changes in between, and writes
    no compiled file beside the user's.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.data


def _loaded(target: str, folder: Path) -> tuple[ModuleType, str]:
    """Executes a file or imports a module; returns the module and the SHA-256 of its file."""
    if not target.endswith(".py"):
        try:
            with without_exit():
                module = importlib.import_module(target)
        except ANY_ERROR as error:
            raise UserError(f"{target} cannot be imported: {one_line(error)}") from error
        file = getattr(module, "__file__", None)
        return module, hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()
    path = folder / target
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(data).hexdigest()
    name = f"headsearch_user_family_{digest[:16]}"
    spec = importlib.util.spec_from_loader(name, _SourceOf(path, data))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up by name
    try:
        with without_exit():
            spec.loader.exec_module(module)
    except ANY_ERROR as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be executed: {one_line(error)}") from error
    return module, digest


def _from_package(name: str, where: str) -> UserFamily:
    entry = packaged_families()[name]
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
    try:
        with without_exit():
            family = entry.load()
            if not isinstance(family, Family):
                family = family()
    except ANY_ERROR as error:
        raise UserError(f"{name} of {distribution} cannot be loaded: {one_line(error)}") from error
    if not isinstance(family, Family) or family.name != name or family.control:
        raise UserError(f"{name} of {distribution} gives no Family of that name, but {family!r}")
    return UserFamily(with_common_parameters(family), {"package": distribution}, where)


def _family(
    name: str, spec: str, made: Callable[..., Any], entries: Mapping[str, Located]
) -> Family:
    """The family of a class or function `made(dim, [grid,] **parameters)` that returns a head.

    The parameters with a default in its signature become the parameters of the family.
    """
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError) as error:
        raise UserError(f"{spec} does not say what parameters it takes") from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first, *others = signature.parameters.values() or (None,)
    if first is None or first.kind not in positional:
        raise UserError(f"{spec} must take the width of the map as its first parameter")
    takes_grid = any(other.name == "grid" for other in others)
    declared: dict[str, Parameter] = {}
    for other in others:
        if other.name == "grid" or other.kind in (other.VAR_POSITIONAL, other.VAR_KEYWORD):
            continue
        if other.default is other.empty:
            raise UserError(f"{spec}: its parameter {other.name} needs a default")
        parameter = _parameter(other, entries.get(other.name))
        if parameter is not None:
            declared[other.name] = parameter

    def build(dim: int, grid: Grid, **parameters: Value) -> nn.Module:
        # Defaults are left to `made`, whose own values may have another type, float for int say.
        chosen = {n: value for n, value in parameters.items() if value != declared[n].default}
        if takes_grid:
            chosen["grid"] = grid  # type: ignore[assignment]
        head = made(dim, **chosen)
        if not isinstance(head, nn.Module):
            raise UserError(f"{spec} gives no torch module, but {type(head).__name__}")
        return head

    return Family(name, f"yours: {spec}", build, declared, norm="", blocks=None)


def _parameter(parameter: inspect.Parameter, listing: Located | None) -> Parameter | None:
    """The family's parameter for one in a signature; None if the type of its default does not fit.

    Args:
        parameter: the parameter in the signature.
        listing: its entry in the space, which names the further choices of a text.
    """
    name, default = parameter.name, parameter.default
    if name in (*ORIGIN_KEYS, "width", "attach_at"):
        raise UserError(
            f"its parameter {name} has the name of a key that every family has: rename it"
        )
    shown = re.sub("[^a-z0-9]", "", name.lower())
    text = f"{name} of yours"
    if isinstance(default, bool):
        return Parameter("bool", default, text, f"no{shown}" if default else shown)
    if isinstance(default, str):
        choices = sorted({default, *_texts(listing)})
        for choice in choices:
            if choice != default and not re.fullmatch("[a-z0-9.]+", choice):
                raise UserError(
                    f"{name}: a choice is part of candidates' names and must have lower-case "
                    f"letters, digits and dots, but is {choice!r}"
                )
        return Parameter("choice", default, text, f"{shown}-{{}}", choices=tuple(choices))
    if not isinstance(default, int | float):
        return None
    whole = isinstance(default, int) and parameter.annotation not in (float, "float")
    return Parameter(
        "int" if whole else "float",
        default if whole else float(f"{default:.4g}"),
        text,
        f"{shown}{{}}",
        low=-LARGEST_NUMBER,
        high=LARGEST_NUMBER,
    )


def _texts(node: Located | None) -> list[str]:
    """All texts among the values in a parameter's entry."""
    if node is None:
        return []
    if isinstance(node.value, dict):
        parts = [node.value[key] for key in ("choices", "otherwise") if key in node.value]
        return [text for part in parts for text in _texts(part)]
    if isinstance(node.value, list):
        return [text for item in node.value for text in _texts(item)]
    return [node.value] if isinstance(node.value, str) else []

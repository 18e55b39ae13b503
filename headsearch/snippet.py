"""A head as a Python file of its own, which imports torch and timm and never headsearch.

The file is put together from the source of the family's `build` function and of everything in
headsearch that this function uses, so that it is right by construction: a name is followed from
where it is used to where it is defined, through imports, and what lies outside headsearch becomes
an import of the file.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from types import ModuleType
from typing import Any

OWN_PACKAGE = "headsearch"
LINE = 100  # columns


@dataclass(frozen=True)
class Import:
    """`import module as alias`, or `from module import name as alias`."""

    module: str
    name: str | None
    alias: str


@dataclass
class Sources:
    """Definitions and imports that some objects need, in an order in which they can be run."""

    imports: set[Import] = field(default_factory=set)
    definitions: dict[tuple[str, str], str] = field(default_factory=dict)
    """By module and name, after all that they use."""
    _names: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, function: Callable[..., Any]) -> str:
        """Adds a function with all that it needs; returns what the file calls it."""
        module = _module(function.__module__)
        return self._need(module, function.__name__)

    def _need(self, module: _Module, name: str) -> str:
        """Makes `name`, as `module` knows it, known in the file; returns its name there."""
        if name in module.imported:
            origin = module.imported[name]
            if origin.module.partition(".")[0] != OWN_PACKAGE:
                self.imports.add(origin)
                return origin.alias
            if origin.name is None:
                raise NotImplementedError(f"{module.name} uses {origin.module} as a whole")
            return self._need(_module(origin.module), origin.name)
        return self._define(module, name)

    def _define(self, module: _Module, name: str) -> str:
        key = (module.name, name)
        known = next((n for n, owner in self._names.items() if owner == key), None)
        if known is not None:  # or about to be, where two use each other
            return known
        taken = name in self._names  # by another module's
        own = f"{name}_{module.name.rpartition('.')[2]}" if taken else name
        self._names[own] = key
        text, uses = module.definition(name)
        renamed = {name: own} if own != name else {}
        for used in uses:
            if used != name:
                called = self._need(module, used)
                if called != used:
                    renamed[used] = called
        self.definitions[key] = _rename(text, renamed)
        return own

    def text(self, *more: str) -> str:
        """A Python file of the imports and definitions, with more definitions at its end."""
        blocks = [*self.definitions.values(), *more]
        # isort wants two empty lines between imports and a function, and one before a constant.
        gap = "\n\n\n" if blocks[0].startswith(("def ", "class ", "@")) else "\n\n"
        future = "from __future__ import annotations"
        return f"{future}\n\n{import_lines(self.imports)}{gap}" + "\n\n\n".join(blocks) + "\n"


@dataclass
class _Module:
    """What a module of headsearch defines and imports at its top level."""

    name: str
    source: str

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def imported(self) -> dict[str, Import]:
        found = {}
        for node in self._tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
                for item in node.names:
                    alias = item.asname or item.name
                    found[alias] = Import(node.module, item.name, alias)
            elif isinstance(node, ast.Import):
                for item in node.names:
                    alias = item.asname or item.name
                    found[alias.partition(".")[0]] = Import(item.name, None, alias)
        return found

    @cached_property
    def _nodes(self) -> dict[str, ast.stmt]:
        found: dict[str, ast.stmt] = {}
        for node in self._tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[node.name] = node
            elif isinstance(node, ast.Assign):
                found.update((t.id, node) for t in node.targets if isinstance(t, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = node
        return found

    def definition(self, name: str) -> tuple[str, list[str]]:
        """The source of a top-level name, and the top-level names that it uses, in order."""
        node = self._nodes[name]
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        lines = self.source.splitlines()[first - 1 : node.end_lineno]
        known = {*self.imported, *self._nodes}
        uses = [
            part.id for part in ast.walk(node) if isinstance(part, ast.Name) and part.id in known
        ]
        return "\n".join(lines), list(dict.fromkeys(uses))


@cache
def _module(name: str) -> _Module:
    module: ModuleType = importlib.import_module(name)
    return _Module(name, inspect.getsource(module))


def _rename(text: str, names: Mapping[str, str]) -> str:
    """The source with names replaced wherever they stand for themselves, not for an attribute."""
    if not names:
        return text
    lines = text.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    for before, token in reversed(list(zip([None, *tokens], tokens, strict=False))):
        attribute = before is not None and before.string == "."
        if token.type == tokenize.NAME and token.string in names and not attribute:
            row, column = token.start
            line = lines[row - 1]
            rest = line[column + len(token.string) :]
            lines[row - 1] = line[:column] + names[token.string] + rest
    return "".join(lines)


def import_lines(imports: set[Import]) -> str:
    """Import statements in the order that isort and ruff keep."""
    third_party = {found for found in imports if _is_third_party(found.module)}
    sections = [imports - third_party, third_party]
    return "\n\n".join("\n".join(_section(section)) for section in sections if section)


def _is_third_party(module: str) -> bool:
    return module.partition(".")[0] not in sys.stdlib_module_names


def _section(imports: set[Import]) -> Iterator[str]:
    for found in sorted((i for i in imports if i.name is None), key=lambda i: i.module):
        renamed = f" as {found.alias}" if found.alias != found.module else ""
        yield f"import {found.module}{renamed}"
    members: dict[str, list[Import]] = {}
    for found in imports:
        if found.name is not None:
            members.setdefault(found.module, []).append(found)
    for module in sorted(members):
        names = [
            f"{i.name} as {i.alias}" if i.alias != i.name else str(i.name)
            for i in sorted(members[module], key=lambda i: _member_order(str(i.name)))
        ]
        line = f"from {module} import {', '.join(names)}"
        if len(line) > LINE:
            inner = "".join(f"    {name},\n" for name in names)
            line = f"from {module} import (\n{inner})"
        yield line


def _member_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name

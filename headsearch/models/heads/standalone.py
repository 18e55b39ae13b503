"""A head as a Python file of its own, which imports torch and timm and never headsearch.

The file is put together from the source of a `build` function and of everything in headsearch that
it uses, so that it is right by construction: a name is followed from where it is used to where it
is defined, through imports and into closures, and what lies outside headsearch becomes an import of
the file. A `Family` that is used is written as what it is there for: a function and its arguments.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import sys
import textwrap
import tokenize
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import FunctionType, ModuleType
from typing import Any

from headsearch.models.heads import Family, Value

OWN_PACKAGE = "headsearch"
LINE = 100  # columns

FAMILY_CLASS = '''class Family:
    """A kind of head: how it is built, and with which arguments where nothing else is said."""

    def __init__(self, build: Callable[..., nn.Module], **arguments: Any) -> None:
        self.build = build
        self.arguments = arguments

    def make(self, dim: int, grid: tuple[int, int], parameters: Mapping[str, Any]) -> nn.Module:
        """A head on maps (B, dim, rows, columns)."""
        return self.build(dim, grid, **{**self.arguments, **parameters})'''
"""What stands for headsearch's own class in a file that uses families."""


@dataclass(frozen=True)
class Import:
    """`import module as alias`, or `from module import name as alias`."""

    module: str
    name: str | None
    alias: str


NN = Import("torch", "nn", "")


@dataclass
class Sources:
    """Definitions and imports that some functions need, in an order in which they can be run.

    Attributes:
        settled: the arguments that a family is built with where nothing else is said.
        chosen: of a dict of families, those of these names are kept.
    """

    settled: Callable[[Family], Mapping[str, Value]] = field(default=lambda family: {})
    chosen: Collection[str] = ()
    definitions: dict[Hashable, str] = field(default_factory=dict)
    """By what is defined, after all that it uses."""
    _names: dict[str, Hashable] = field(default_factory=lambda: {"nn": NN})
    """What each name of the file stands for: an import or a definition."""

    def add(self, function: Callable[..., Any]) -> str:
        """Adds a function with all that it needs; returns what the file calls it."""
        assert isinstance(function, FunctionType)
        module = _module(function.__module__)
        if "<locals>" not in function.__qualname__:
            return self._need(module, function.__name__)
        text = textwrap.dedent(inspect.getsource(function)).rstrip()
        closed_over = inspect.getclosurevars(function).nonlocals
        names = {}
        for used in _used_names(ast.parse(text), {*module.known, *closed_over}):
            if used in closed_over:
                key = (function, used)
                names[used] = self._claim(used, key, function.__name__)
                self.definitions[key] = f"{names[used]} = {self._value(closed_over[used], used)}"
            else:
                names[used] = self._need(module, used)
        own = self._claim(function.__name__, function, module.name)
        self.definitions[function] = _rename(text, {**names, function.__name__: own})
        return own

    def _need(self, module: _Module, name: str) -> str:
        """Makes `name`, as `module` knows it, known in the file; returns its name there."""
        origin = module.imported.get(name)
        if origin is None:
            return self._define(module, name)
        if origin.module.partition(".")[0] == OWN_PACKAGE:
            assert origin.name is not None, f"{module.name} uses {origin.module} as a whole"
            return self._need(_module(origin.module), origin.name)
        return self._claim(origin.alias, replace(origin, alias=""), origin.module)

    def _define(self, module: _Module, name: str) -> str:
        key = (module.name, name)
        own = self._claim(name, key, module.name)
        if key in self.definitions or key in self._pending:
            return own
        self._pending.add(key)
        value = getattr(module.live, name, None)
        if isinstance(value, Family) or _holds_families(value):
            self.definitions[key] = f"{own} = {self._value(value, name)}"
        else:
            text, uses = module.definition(name)
            names = {used: self._need(module, used) for used in uses if used != name}
            self.definitions[key] = _rename(text, {**names, name: own})
        return own

    def _value(self, value: Any, name: str) -> str:
        """An expression for something that exists in Python only."""
        if isinstance(value, Family):
            return self._family(value)
        if _holds_families(value):
            kept = {key: family for key, family in value.items() if key in self.chosen}
            entries = (f'    "{key}": {self._family(kept[key], 4)},\n' for key in kept)
            return f"{{\n{''.join(entries)}}}"
        if isinstance(value, FunctionType):
            return self.add(value)
        assert isinstance(value, bool | int | float | str | None), f"{name} cannot be written"
        return literal(value)

    def _family(self, family: Family, indent: int = 0) -> str:
        for name in ("Callable", "Mapping"):
            self._claim(name, Import("collections.abc", name, ""), "abc")
        self._claim("Any", Import("typing", "Any", ""), "typing")
        self._claim("Family", Family, "")
        self.definitions.setdefault(Family, FAMILY_CLASS)
        build = self.add(family.build)
        arguments = [f"{name}={literal(value)}" for name, value in self.settled(family).items()]
        return call("Family", [build, *arguments], indent)

    def _claim(self, name: str, owner: Hashable, where: str) -> str:
        """The file's name for something: its own, or a longer one where that is taken."""
        known = next((n for n, other in self._names.items() if other == owner), None)
        if known is None:
            known = name if name not in self._names else f"{name}_{where.rpartition('.')[2]}"
            self._names[known] = owner
        return known

    @cached_property
    def _pending(self) -> set[Hashable]:
        """What is being defined, for what uses itself."""
        return set()

    def text(self, *more: str) -> str:
        """A Python file of the imports and definitions, with more definitions at its end."""
        imports = {
            replace(owner, alias=name)
            for name, owner in self._names.items()
            if isinstance(owner, Import)
        }
        blocks = [*self.definitions.values(), *more]
        # isort wants two empty lines between imports and a function, and one before a constant.
        gap = "\n\n\n" if blocks[0].startswith(("def ", "class ", "@")) else "\n\n"
        future = "from __future__ import annotations"
        body = "\n\n\n".join(blocks)
        return f"{future}\n\n{import_lines(imports)}{gap}{body}\n"


def literal(value: Value | None) -> str:
    """A value as Python writes it, with the quotes that the formatter wants."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def call(function: str, arguments: list[str], indent: int = 0) -> str:
    """A call in an expression that is so far indented, an argument a line."""
    before = "\n" + " " * (indent + 4)
    return f"{function}({''.join(f'{before}{a},' for a in arguments)}\n{' ' * indent})"


def _holds_families(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(part, Family) for part in value.values())
    )


def _used_names(tree: ast.AST, known: Collection[str]) -> list[str]:
    """The names among `known` that a piece of source uses, in order."""
    names = (part.id for part in ast.walk(tree) if isinstance(part, ast.Name))
    return list(dict.fromkeys(name for name in names if name in known))


@dataclass
class _Module:
    """What a module of headsearch defines and imports at its top level."""

    name: str
    live: ModuleType

    @cached_property
    def _source(self) -> str:
        return inspect.getsource(self.live)

    @property
    def known(self) -> set[str]:
        """Every name of its top level."""
        return {*self.imported, *self._nodes}

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self._source)

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
        lines = self._source.splitlines()[first - 1 : node.end_lineno]
        return "\n".join(lines), _used_names(node, self.known)


@cache
def _module(name: str) -> _Module:
    return _Module(name, importlib.import_module(name))


def _rename(text: str, names: Mapping[str, str]) -> str:
    """The source with names replaced wherever they stand for themselves, not for an attribute."""
    names = {name: own for name, own in names.items() if name != own}
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

"""Exports the code of a head as a Python file that imports torch and timm but not headsearch.

The file consists of the source of a `build` function and of everything in headsearch that it uses.
Every name is followed from its use to its definition, through imports and into closures; modules
outside of headsearch become imports of the file. Since the code is copied, the exported head is
the trained one by construction. A `Family` in the code is written as its build function with the
arguments that it is called with.
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
LINE = 100  # the longest line in columns, as in headsearch's own formatting

FAMILY_CLASS = '''class Family:
    """A kind of head: a build function and default values of its parameters."""

    def __init__(self, build: Callable[..., nn.Module], **arguments: Any) -> None:
        self.build = build
        self.arguments = arguments

    def make(self, dim: int, grid: tuple[int, int], parameters: Mapping[str, Any]) -> nn.Module:
        """Builds a head for maps (B, dim, rows, columns)."""
        return self.build(dim, grid, **{**self.arguments, **parameters})'''
"""The class that replaces headsearch's `Family` in exported files."""


@dataclass(frozen=True)
class Import:
    """`import module as alias`, or `from module import name as alias`."""

    module: str
    name: str | None
    alias: str


NN = Import("torch", "nn", "")


@dataclass
class Sources:
    """Collects the definitions and imports that some functions need, each after what it uses.

    Attributes:
        settled: function that returns the default arguments of a family.
        chosen: names of the families to keep where the code uses a dict of families.
    """

    settled: Callable[[Family], Mapping[str, Value]] = field(default=lambda family: {})
    chosen: Collection[str] = ()
    definitions: dict[Hashable, str] = field(default_factory=dict)
    """The source of each definition, in an order in which it can be run."""
    _names: dict[str, Hashable] = field(default_factory=lambda: {"nn": NN})
    """Each name in the file with its owner: an `Import`, or the key of a definition."""

    def add(self, function: Callable[..., Any]) -> str:
        """Adds a function with everything that it uses; returns its name in the file."""
        assert isinstance(function, FunctionType)
        module = _module(function.__module__)
        if "<locals>" not in function.__qualname__:
            return self._need(module, function.__name__)
        # A function within a function: the variables it closes over become constants of the file.
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
        """Adds what `name` means in `module` to the file; returns its name there."""
        origin = module.imported.get(name)
        if origin is None:
            return self._define(module, name)
        if origin.module.partition(".")[0] == OWN_PACKAGE:
            assert origin.name is not None, f"{module.name} uses {origin.module} as a whole"
            return self._need(_module(origin.module), origin.name)
        return self._claim(origin.alias, replace(origin, alias=""), origin.module)

    def _define(self, module: _Module, name: str) -> str:
        """Adds the definition of a top-level name of `module`; returns its name in the file."""
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
        """An expression for a value that has no source of its own, such as a closure variable."""
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
        """A call that creates the exported form of a family; see `FAMILY_CLASS`."""
        for name in ("Callable", "Mapping"):
            self._claim(name, Import("collections.abc", name, ""), "abc")
        self._claim("Any", Import("typing", "Any", ""), "typing")
        self._claim("Family", Family, "")
        self.definitions.setdefault(Family, FAMILY_CLASS)
        build = self.add(family.build)
        arguments = [f"{name}={literal(value)}" for name, value in self.settled(family).items()]
        return call("Family", [build, *arguments], indent)

    def _claim(self, name: str, owner: Hashable, where: str) -> str:
        """The name of `owner` in the file: `name`, or one with a suffix if that is taken.

        The suffix is the last part of `where`, the module or function that the owner is from.
        """
        claimed = next((n for n, other in self._names.items() if other == owner), None)
        if claimed is None:
            claimed = name if name not in self._names else f"{name}_{where.rpartition('.')[2]}"
            self._names[claimed] = owner
        return claimed

    @cached_property
    def _pending(self) -> set[Hashable]:
        """Keys of definitions under way, so that one that uses itself does not recurse forever."""
        return set()

    def text(self, *more: str) -> str:
        """The Python file: imports, definitions, and the sources in `more` at its end."""
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
    """A Python literal for a value, with double quotes as ruff formats them."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def call(function: str, arguments: list[str], indent: int = 0) -> str:
    """The source of a call with one argument per line, within a line indented by `indent`."""
    before = "\n" + " " * (indent + 4)
    return f"{function}({''.join(f'{before}{a},' for a in arguments)}\n{' ' * indent})"


def _holds_families(value: Any) -> bool:
    """Whether a value is a dict of families such as `hybrid.NEAR`."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(part, Family) for part in value.values())
    )


def _used_names(tree: ast.AST, known: Collection[str]) -> list[str]:
    """The names among `known` that a syntax tree uses, in order of appearance."""
    names = (part.id for part in ast.walk(tree) if isinstance(part, ast.Name))
    return list(dict.fromkeys(name for name in names if name in known))


@dataclass
class _Module:
    """A module of headsearch: what its source defines and imports at the top level."""

    name: str
    live: ModuleType

    @cached_property
    def _source(self) -> str:
        return inspect.getsource(self.live)

    @property
    def known(self) -> set[str]:
        """All names of its top level."""
        return {*self.imported, *self._nodes}

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self._source)

    @cached_property
    def imported(self) -> dict[str, Import]:
        """The imports at its top level, by the name that they bind."""
        imports = {}
        for node in self._tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
                for item in node.names:
                    alias = item.asname or item.name
                    imports[alias] = Import(node.module, item.name, alias)
            elif isinstance(node, ast.Import):
                for item in node.names:
                    alias = item.asname or item.name
                    imports[alias.partition(".")[0]] = Import(item.name, None, alias)
        return imports

    @cached_property
    def _nodes(self) -> dict[str, ast.stmt]:
        """The statements that define its top-level functions, classes and constants."""
        nodes: dict[str, ast.stmt] = {}
        for node in self._tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                nodes[node.name] = node
            elif isinstance(node, ast.Assign):
                nodes.update((t.id, node) for t in node.targets if isinstance(t, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                nodes[node.target.id] = node
        return nodes

    def definition(self, name: str) -> tuple[str, list[str]]:
        """The source that defines a top-level name, and the top-level names that it uses."""
        node = self._nodes[name]
        # The line number of a function is that of its `def`, below its decorators.
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        lines = self._source.splitlines()[first - 1 : node.end_lineno]
        return "\n".join(lines), _used_names(node, self.known)


@cache
def _module(name: str) -> _Module:
    return _Module(name, importlib.import_module(name))


def _rename(text: str, names: Mapping[str, str]) -> str:
    """Replaces names in source code by those in `names`; attributes of the same name are kept."""
    names = {name: own for name, own in names.items() if name != own}
    if not names:
        return text
    lines = text.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    # From the last token to the first, so that the columns of those to come stay valid.
    for before, token in reversed(list(zip([None, *tokens], tokens, strict=False))):
        attribute = before is not None and before.string == "."
        if token.type == tokenize.NAME and token.string in names and not attribute:
            row, column = token.start
            line = lines[row - 1]
            rest = line[column + len(token.string) :]
            lines[row - 1] = line[:column] + names[token.string] + rest
    return "".join(lines)


def import_lines(imports: set[Import]) -> str:
    """Import statements as isort and ruff order them: standard library, then other packages."""
    third_party = {entry for entry in imports if _is_third_party(entry.module)}
    sections = [imports - third_party, third_party]
    return "\n\n".join("\n".join(_section(section)) for section in sections if section)


def _is_third_party(module: str) -> bool:
    return module.partition(".")[0] not in sys.stdlib_module_names


def _section(imports: set[Import]) -> Iterator[str]:
    """The statements of one section: `import a`, then `from a import b` with members combined."""
    for entry in sorted((i for i in imports if i.name is None), key=lambda i: i.module):
        renamed = f" as {entry.alias}" if entry.alias != entry.module else ""
        yield f"import {entry.module}{renamed}"
    members: dict[str, list[Import]] = {}
    for entry in imports:
        if entry.name is not None:
            members.setdefault(entry.module, []).append(entry)
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
    """Sort key of imported names as in isort: constants, then classes, then the rest."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name

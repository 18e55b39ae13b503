"""The parts of the reference that are made from the code at each build, so that none falls behind.

A page holds a comment such as `<!-- made: commands -->` where the part is to stand.
"""

from __future__ import annotations

import dataclasses
import html
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

SHARED = "run"
"""The command that has a flag for every setting; others only name the flags that they share."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts each part in the place of its comment."""
    return re.sub(r"<!-- made: (\w+) -->", lambda found: MADE[found[1]](), markdown)


def commands() -> str:
    """Every command with its arguments and flags."""
    import typer

    from headsearch.cli.commands import app

    program: Any = typer.main.get_command(app)
    context = typer.Context(program, info_name="headsearch")
    shown = [program.commands[name] for name in program.list_commands(context)]
    of_run = {_described(flag, context) for flag in program.commands[SHARED].params}
    return "\n\n".join(
        part
        for command in shown
        if not command.hidden
        for part in _command(command, context, of_run if command.name != SHARED else set())
    )


def _command(command: Any, context: Any, shared: set[tuple[str, str]]) -> Iterator[str]:
    """A command in Markdown: what it does, how it is called, its flags by panel."""
    yield f"## {command.name} {{ #{command.name} }}"
    yield f"`headsearch {command.name} {' '.join(command.collect_usage_pieces(context))}`"
    for paragraph in inspect.cleandoc(command.help).split("\n\n"):
        example = re.fullmatch(r"Example: \[bold\](.*)\[/bold\]", paragraph)
        yield f"```console\n{example[1]}\n```" if example else _text(paragraph)
    panels: dict[str, list[Any]] = {}
    for flag in command.params:
        if not flag.hidden:
            panel = "Arguments" if flag.param_type_name == "argument" else "Options"
            panels.setdefault(getattr(flag, "rich_help_panel", None) or panel, []).append(flag)
    for panel, flags in panels.items():
        same = [flag for flag in flags if _described(flag, context) in shared]
        if len(flags) > len(same):
            yield f"### {panel} {{ #{command.name}-{_anchor(panel)} }}"
        for flag in flags:
            name, text = _described(flag, context)
            if flag not in same:
                yield f"#### `{name}` {{ #{command.name}-{_anchor(flag.name)} .flag }}\n\n{text}"
        if same:
            names = (
                f"[`{flag.opts[0]}`](#{SHARED}-{_anchor(flag.name)}){{ .flag }}" for flag in same
            )
            yield f"*{panel}*, as in `{SHARED}`: {', '.join(names)}"


def _described(flag: Any, context: Any) -> tuple[str, str]:
    """How a flag is written, and its help in Markdown."""
    name, text = flag.get_help_record(context) or (flag.name, "")
    return name, _text(text)


def _text(rich: str) -> str:
    """A help text, which is in rich's markup, in Markdown."""
    plain = " ".join(rich.replace("\\[", "&#91;").split())
    plain = re.sub(r"\[/?bold\]", "`", plain)
    code = plain.split("`")
    code[::2] = [re.sub(r"([*_<\[])", r"\\\1", words) for words in code[::2]]
    return "`".join(code)


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).replace("_", "-")


def families() -> str:
    """Every head family: its docstring and its parameters."""
    from headsearch.models.heads import FAMILIES

    return "\n\n".join(_family(family) for family in FAMILIES.values())


def _family(family: Any) -> str:
    # The registry adds parameters that all families share; the docstring is that of what it wraps.
    own = inspect.getclosurevars(family.build).nonlocals.get("family", family)
    rows = [
        f"| `{name}` | `{_yaml(value.default)}` | {value.help} | {value.expected()} |"
        for name, value in family.parameters.items()
    ]
    table = "| parameter | default | meaning | values |\n|---|---|---|---|\n" + "\n".join(rows)
    bias = html.escape(family.bias)
    return f"## {family.name}\n\n*{bias[0].upper()}{bias[1:]}.*\n\n{_docstring(own.build)}" + (
        f"\n\n{table}" if rows else ""
    )


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def objectives() -> str:
    """Every objective: its docstring and the default sizes."""
    from headsearch.training.objectives import OBJECTIVES

    return "\n\n".join(
        f"## {name}\n\n{_docstring(kind)}\n\n*Defaults:* {_defaults(kind)}"
        for name, kind in OBJECTIVES.items()
    )


def _defaults(kind: Any) -> str:
    fields = dataclasses.fields(kind)
    return ", ".join(f"`{field.name}` {field.default}" for field in fields) or "none"


def _docstring(of: Any) -> str:
    """The docstring of a function or class, for mkdocstrings, without a heading."""
    options = "show_root_heading: false, show_root_toc_entry: false, members: []"
    return f"::: {of.__module__}.{of.__qualname__}\n    options: {{{options}}}"


MADE: dict[str, Callable[[], str]] = {
    "commands": commands,
    "families": families,
    "objectives": objectives,
}
"""What makes a part, by the name in its comment."""

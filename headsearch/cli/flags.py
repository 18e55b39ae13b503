"""The flags of the commands: one for every setting of a run, and flags that commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from headsearch.cli.budgets import all_budgets, defaults_by_budget
from headsearch.config.settings import RunConfig, panel_of

RankOption = Annotated[
    int | None, typer.Option(min=1, help="A rank of RUN's ranking. \\[default: 1]")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]

EngineOption = Annotated[
    str | None,
    typer.Option(
        metavar="local|auto|ray://HOST:PORT",
        help="Train cohorts as tasks of Ray: on this machine (a cohort per GPU), on the cluster "
        "that it is part of, or on that of a head. \\[default: in this process]",
    ),
]
GraceOption = Annotated[
    float,
    typer.Option(
        help="With --engine: seconds without a sign of life until a task counts as lost and "
        "starts again from its last snapshot."
    ),
]


def settings_as_flags(
    *, without: Collection[str] = (), show_defaults: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that replaces a command's **flags by one flag for every setting of `RunConfig`.

    Args:
        without: settings that do not apply to the command.
        show_defaults: whether the help shows the defaults of settings.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            p
            for p in inspect.signature(command, eval_str=True).parameters.values()
            if p.kind != p.VAR_KEYWORD
        ]
        flags = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[_flag_type(name), _flag(name, show_defaults)],
            )
            for name in RunConfig.model_fields
            if name not in without
        ]
        command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        return command

    return decorate


def _flag_type(setting: str) -> Any:
    """The type that the command line parses: a switch, or text that `RunConfig` checks later."""
    return (bool if RunConfig.model_fields[setting].annotation is bool else str) | None


def _flag(setting: str, show_default: bool) -> Any:
    field = RunConfig.model_fields[setting]
    help_text = field.description or ""
    if setting == "budget":
        help_text += f" {all_budgets()}."
    if not show_default and setting != "out":
        help_text = help_text.partition(" [default:")[0]
    elif (by_budget := defaults_by_budget(setting)) is not None:
        help_text += f" [default by --budget: {by_budget}]"
    elif field.default is not None and field.default is not False:
        help_text += f" [default: {field.default}]"
    return typer.Option(
        "--" + setting.replace("_", "-"),
        help=help_text.replace("[", "\\["),  # rich would read it as markup
        rich_help_panel=panel_of(setting),
        show_default=False,
        metavar="|".join(_choices(field.annotation)) or _kind(field.annotation),
    )


def _choices(annotation: Any) -> list[str]:
    """The choices of a setting, with N if it may be a number too; empty if it has no choices."""
    parts = (annotation, *get_args(annotation))
    named = [choice for part in parts for choice in get_args(part) if isinstance(choice, str)]
    return [*named, "N"] if named and int in parts else named


def _kind(annotation: Any) -> str | None:
    kinds = {bool: "", int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}
    return next((kinds[k] for k in kinds if k in (annotation, *get_args(annotation))), None)

"""The text of `--views` in every domain: a name, and changes to what it stands for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from headsearch.errors import UserError, unknown

AUTO, PUBLISHED = "auto", "published"

Reader = Callable[[str], float | str | tuple[float, ...]]
"""Reads the value of one setting; raises ValueError."""


def text_of(value: float | str | tuple[float, ...]) -> str:
    """A value as in `--views`; floats keep all their digits."""
    if isinstance(value, tuple):
        return "/".join(text_of(x) for x in value)
    return value if isinstance(value, str) else repr(value)


@dataclass(frozen=True)
class ViewsBase:
    """What the views of every domain have in common: the fields are settings of `--views`."""

    def _check(self, name: str, right: bool, wanted: str) -> None:
        """Raises UserError unless the value of a setting is right."""
        if not right:
            raise UserError(
                f"views: {name} must be {wanted}, but is {text_of(getattr(self, name))}"
            )

    def __str__(self) -> str:
        """The settings as a text that `--views` takes, such as `crop_scale=0.2/1.0,…`."""
        return ",".join(f"{each.name}={text_of(getattr(self, each.name))}" for each in fields(self))


def parsed(
    text: str, names: Sequence[str], readers: Mapping[str, Reader], defaults: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """The name in a value of `--views`, `auto` by default, and the changes to what it stands for.

    Args:
        text: such as `published,blur=0.5`.
        names: those that there are.
        readers: of the settings that can be changed.
        defaults: an example of each.

    Raises:
        UserError: the text has another form.
    """
    name, entries = AUTO, [entry.strip() for entry in text.split(",")]
    if "=" not in entries[0]:
        name, entries = entries[0], entries[1:]
        if name not in names:
            raise unknown("name of views", name, names)
    changes: dict[str, Any] = {}
    for entry in entries:
        key, equals, value = (part.strip() for part in entry.partition("="))
        if key not in readers:
            hint = difflib.get_close_matches(key, readers, n=1)
            did_you_mean = f"; did you mean {hint[0]!r}?" if hint else ""
            raise UserError(f"views: no setting {key!r} ({', '.join(readers)}){did_you_mean}")
        if not equals or key in changes:
            raise UserError(f"views: {key} needs one value, as in {key}={defaults[key]}")
        try:
            changes[key] = readers[key](value)
        except ValueError:
            raise UserError(f"views: {entry!r} should be like {key}={defaults[key]}") from None
    return name, changes


def numbers(count: int | None) -> Reader:
    """A reader of numbers between slashes, of so many of them if `count` is given."""

    def read(text: str) -> tuple[float, ...]:
        found = tuple(float(part) for part in text.split("/"))
        if count is not None and len(found) != count:
            raise ValueError(text)
        return found

    return read

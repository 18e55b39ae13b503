"""The text of `--views` in every domain: a name, and changes to what it stands for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from headsearch.errors import UserError, unknown

AUTO, PUBLISHED = "auto", "published"

Value = float | str | tuple[float, ...]


def text_of(value: Value) -> str:
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


def parsed(text: str, names: Sequence[str], defaults: ViewsBase) -> tuple[str, dict[str, Any]]:
    """The name in a value of `--views`, `auto` by default, and the changes to what it stands for.

    Args:
        text: such as `published,blur=0.5`.
        names: those that there are.
        defaults: the settings that can be changed, with values that serve as examples.

    Raises:
        UserError: the text has another form.
    """
    name, entries = AUTO, [entry.strip() for entry in text.split(",")]
    if "=" not in entries[0]:
        name, entries = entries[0], entries[1:]
        if name not in names:
            raise unknown("name of views", name, names)
    types = get_type_hints(type(defaults))
    readers = {each.name: _reader(types[each.name]) for each in fields(defaults)}
    changes: dict[str, Any] = {}
    for entry in entries:
        key, equals, value = (part.strip() for part in entry.partition("="))
        if key not in readers:
            hint = difflib.get_close_matches(key, readers, n=1)
            did_you_mean = f"; did you mean {hint[0]!r}?" if hint else ""
            raise UserError(f"views: no setting {key!r} ({', '.join(readers)}){did_you_mean}")
        example = f"{key}={text_of(getattr(defaults, key))}"
        if not equals or key in changes:
            raise UserError(f"views: {key} needs one value, as in {example}")
        try:
            changes[key] = readers[key](value)
        except ValueError:
            raise UserError(f"views: {entry!r} should be like {example}") from None
    return name, changes


def _reader(kind: Any) -> Callable[[str], Value]:
    """The function that reads the value of a setting of this type; it raises ValueError.

    Args:
        kind: `float`, `int`, `str`, or a tuple of floats, which are written between slashes.
    """
    if not get_args(kind):
        return kind  # type: ignore[no-any-return]
    any_number, count = Ellipsis in get_args(kind), len(get_args(kind))

    def read(text: str) -> tuple[float, ...]:
        found = tuple(float(part) for part in text.split("/"))
        if not any_number and len(found) != count:
            raise ValueError(text)
        return found

    return read

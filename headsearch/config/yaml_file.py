"""Reads YAML files into values that know their line, so that errors can name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from headsearch.errors import UserError, unknown

LARGEST_FILE = 256 * 1024  # bytes; a settings file has a few hundred
DEEPEST = 20  # levels of nesting

Scalar: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True)
class Located:
    """A value of a YAML file (a scalar, a list or a mapping) with its position.

    Attributes:
        value: the items of a list and the values of a mapping are again `Located`.
        where: file and line, "heads.yaml:12".
        keys: the position of each key of a mapping; empty for other values.
    """

    value: Scalar | list[Located] | dict[str, Located]
    where: str
    keys: dict[str, str]

    def error(self, message: object) -> UserError:
        """An error that names this value's line."""
        return UserError(f"{self.where}: {message}")

    def key_error(self, key: str, message: object) -> UserError:
        """An error that names the line of a key of this mapping."""
        return UserError(f"{self.keys[key]}: {message}")

    def items(self, what: str) -> list[Located]:
        """The items of a list.

        Args:
            what: how the error names the value.

        Raises:
            UserError: it is not a list.
        """
        if not isinstance(self.value, list):
            raise self.error(f"{what} must be a list, but is {self.shown()}")
        return self.value

    def mapping(self, what: str, known: tuple[str, ...] | None = None) -> dict[str, Located]:
        """The entries of a mapping.

        Args:
            what: how the error names the value.
            known: the only allowed keys; None allows all.

        Raises:
            UserError: it is not a mapping, or has an unknown key.
        """
        if not isinstance(self.value, dict):
            raise self.error(f"{what} must be a mapping (key: value), but is {self.shown()}")
        for key in self.value:
            if known is not None and key not in known:
                raise self.key_error(key, unknown(f"key of {what}", key, known))
        return self.value

    def number(self, what: str) -> float:
        """A finite number.

        Args:
            what: how the error names the value.

        Raises:
            UserError: it is not a finite number.
        """
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.error(f"{what} must be a number, but is {self.shown()}")
        if not abs(self.value) < float("inf"):
            raise self.error(f"{what} must be a finite number, but is {self.shown()}")
        return self.value

    def plain(self) -> Any:
        """The value as dicts, lists and scalars, without positions."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: part.plain() for key, part in self.value.items()}
        return self.value

    def shown(self) -> str:
        """The value as an error message shows it."""
        if self.value is None:
            return "empty"
        if isinstance(self.value, list):
            return "a list"
        if isinstance(self.value, dict):
            return "a mapping"
        return repr(self.value)


def read_yaml(path: Path) -> Located:
    """The single document in a YAML file.

    Aliases, tags, deep nesting and files over 256 KiB are refused. No settings file needs them, and
    with them a small file can expand to an enormous value.

    Raises:
        UserError: the file cannot be read, is empty, is not YAML (with the line), has a key twice,
            or contains something that is refused.
    """
    shown = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror})") from error
    if len(data) > LARGEST_FILE:
        raise UserError(f"{shown}: {len(data)} bytes; settings have at most {LARGEST_FILE}")
    try:
        text = data.decode("utf-8-sig")  # also with the byte order mark of Windows editors
    except UnicodeDecodeError as error:
        raise UserError(f"{shown}: not a text file (UTF-8)") from error
    return _parsed(text, shown)


@lru_cache(maxsize=8)  # a command reads the settings of a run several times
def _parsed(text: str, shown: str) -> Located:
    """The document in the text of a file that errors call `shown`; see `read_yaml`."""
    try:
        _refuse_unsafe(text, shown)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise UserError(f"{shown}: the file is empty")
        return _located(node, shown, yaml.SafeLoader(""))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}" if mark else shown
        raise UserError(f"{where}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        reason = str(error).splitlines()[0]
        raise UserError(f"{shown}: not valid YAML: {reason}") from error


def located(value: Any, where: str) -> Located:
    """A value built in Python (dicts, lists, scalars) as if it had been read from a file.

    Args:
        value: the value.
        where: how an error names the value; the path to a part of it is appended.

    Raises:
        UserError: it contains something else, or is nested too deeply.
    """
    if where.count(".") > DEEPEST:
        raise UserError(f"{where}: nested more than {DEEPEST} levels deep")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"{where}: a key must be a word, but is {key!r}")
        parts = {key: located(part, f"{where}.{key}") for key, part in value.items()}
        return Located(parts, where, {key: f"{where}.{key}" for key in value})
    if isinstance(value, list | tuple):
        return Located([located(part, where) for part in value], where, {})
    if value is None or isinstance(value, bool | int | float | str):
        return Located(value, where, {})
    raise UserError(
        f"{where}: must be a dict, a list, a number, a text or None, but is {type(value).__name__}"
    )


def _refuse_unsafe(text: str, shown: str) -> None:
    """Raises UserError for aliases, tags and deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        assert event.start_mark is not None
        where = f"{shown}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{where}: aliases (*{event.anchor}) are not supported; write it out")
        if getattr(event, "tag", None):
            raise UserError(f"{where}: tags (!...) are not supported; write the plain value")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"{where}: nested more than {DEEPEST} levels deep")


def _located(node: yaml.Node, shown: str, scalars: yaml.SafeLoader) -> Located:
    """The value of a node, with its position."""
    where = f"{shown}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        return Located([_located(item, shown, scalars) for item in node.value], where, {})
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Located] = {}
        keys: dict[str, str] = {}
        for key_node, value_node in node.value:
            key_where = f"{shown}:{key_node.start_mark.line + 1}"
            key = _scalar(key_node, key_where, scalars)
            if not isinstance(key, str):
                raise UserError(f"{key_where}: a key must be a word, but is {key!r}")
            if key in values:
                raise UserError(f"{key_where}: {key!r} is there twice (first at {keys[key]})")
            values[key] = _located(value_node, shown, scalars)
            keys[key] = key_where
        return Located(values, where, keys)
    return Located(_scalar(node, where, scalars), where, {})


def _scalar(node: yaml.Node, where: str, scalars: yaml.SafeLoader) -> Scalar:
    """The value of a scalar node."""
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{where}: a key must be a word, but is a list or a mapping")
    try:
        value: Any = scalars.construct_object(node)
    except ValueError as error:  # an impossible date, an integer of 5000 digits
        raise UserError(f"{where}: {error}") from error
    # No setting is a date or another such type: these stay texts as they are written.
    return value if value is None or isinstance(value, bool | int | float | str) else node.value

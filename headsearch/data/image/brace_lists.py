"""Names of several archives in one text: brace lists, wildcards, and :: between names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from headsearch.errors import UserError

MOST = 1_000_000
"""The most names that a brace list may stand for."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(spec: str) -> bool:
    """Whether a text stands for several archives: `a-{00..12}.tar`, `a-*.tar`, `a.tar::b.tar`."""
    return ".tar" in spec and ("::" in spec or "*" in spec or _BRACES.search(spec) is not None)


def expand(spec: str) -> list[str]:
    """The names that a text stands for, in order; wildcards are kept.

    `{0000..0012}` counts, with as many digits as the first number has; `{a,b}` lists.

    Raises:
        UserError: it stands for more than `MOST` names.
    """
    names: list[str] = []
    for part in spec.split("::"):
        for name in _expanded(part):
            names.append(name)
            if len(names) > MOST:
                raise UserError(f"{spec} stands for more than {MOST} archives")
    return names


def _expanded(text: str) -> Iterator[str]:
    found = _BRACES.search(text)
    if found is None:
        yield text
        return
    before, after = text[: found.start()], text[found.end() :]
    for choice in _choices(found[1]):
        yield from _expanded(f"{before}{choice}{after}")


def _choices(inside: str) -> Iterator[str]:
    counting = _RANGE.fullmatch(inside)
    if counting is None:
        yield from inside.split(",")
        return
    first, last = int(counting[1]), int(counting[2])
    for number in range(first, last + 1):
        yield str(number).zfill(len(counting[1]))

"""The error for mistakes that a user can correct, and the error for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can correct. One line that says what, where and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(kind: str, name: object, choices: Iterable[str]) -> UserError:
    """The error for a name that is not among the choices: with the nearest match and all
    choices."""
    names = sorted(choices)
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {str(name)!r}{hint} (choices: {', '.join(names)})")

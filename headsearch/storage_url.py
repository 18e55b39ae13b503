"""The URL of an Optuna storage, as it may be shown and written: without its password.

Light enough to be imported before anything heavy.
"""

from __future__ import annotations

import os

_opened: dict[str, str] = {}
"""The URLs that this process was given, by how they are written."""
VARIABLE = "HEADSEARCH_STORAGE"
"""The environment variable that a URL is taken from, password and all, where no flag gives one."""
HIDDEN = "***"
"""What stands for a password in what is shown or written."""


def masked(url: str) -> str:
    """The URL with its password hidden."""
    if "@" not in url:
        return url
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):  # no URL that could be opened: its end tells nothing
        return f"{url.partition('://')[0]}://{HIDDEN}@{url.rpartition('@')[2]}"


def unmasked(url: str) -> str:
    """A URL that can be opened, of one whose password was hidden when it was written.

    It is one that this process was given before, or the one of the environment, where that is the
    same but for the password; else the one without any, for which the database's own client looks
    elsewhere (PGPASSWORD, ~/.pgpass).
    """
    if f":{HIDDEN}@" not in url:
        _opened[masked(url)] = url
        return url
    known = _opened.get(url) or os.environ.get(VARIABLE, "")
    if known and masked(known) == url:
        return known
    return url.replace(f":{HIDDEN}@", "@", 1)

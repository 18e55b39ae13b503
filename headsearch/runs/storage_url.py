"""The URL of an Optuna storage, as it may be shown and written: without its password.

Light enough to be imported before anything heavy.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote_plus

_opened: dict[str, str] = {}
"""The URLs that this process was given, by how they are written."""
VARIABLE = "HEADSEARCH_STORAGE"
"""The environment variable that a URL is taken from, password and all, where no flag gives one."""
SECRETS = ("password", "passwd", "sslpassword")
"""Keys of a URL's query that hold what must not be shown."""
HIDDEN = "***"
"""What stands for a password in what is shown or written."""


def masked(url: str) -> str:
    """The URL with its password hidden, in its query too."""
    if "@" not in url and "?" not in url:
        return url
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    scheme, _, rest = url.partition("://")
    try:
        if "@" in rest.partition("/")[0].partition("@")[2]:
            raise ValueError("a password with an @ that is not escaped")
        shown = make_url(url)
        secret = {key: HIDDEN for key in shown.query if key.lower() in SECRETS}
        written = shown.update_query_dict(secret).render_as_string(hide_password=True)
        return written.replace(quote_plus(HIDDEN), HIDDEN)
    except (ArgumentError, ValueError):  # no URL that could be opened: its end tells nothing
        return f"{scheme}://{HIDDEN}@{rest.rpartition('@')[2].partition('?')[0]}"


def unmasked(url: str) -> str:
    """A URL that can be opened, of one whose password was hidden when it was written.

    It is one that this process was given before, or the one of the environment, where that is the
    same but for the password; else the one without any, for which the database's own client looks
    elsewhere (PGPASSWORD, ~/.pgpass).
    """
    if HIDDEN not in url:
        _opened[masked(url)] = url
        return url
    known = _opened.get(url) or os.environ.get(VARIABLE, "")
    if known and masked(known) == url:
        return known
    hidden = re.compile(rf"(?<=[?&])({'|'.join(SECRETS)})={re.escape(HIDDEN)}&?", re.IGNORECASE)
    return hidden.sub("", url.replace(f":{HIDDEN}@", "@", 1)).rstrip("?&")

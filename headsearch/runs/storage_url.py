"""Storage URLs that can be shown and written: without their password.

Imports little, so that it can be imported before anything heavy.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote_plus

_opened: dict[str, str] = {}
"""The URLs that this process was given, by their masked form."""
VARIABLE = "HEADSEARCH_STORAGE"
"""The environment variable with the storage URL, including its password, if no flag gives one."""
SECRETS = ("password", "passwd", "sslpassword")
"""Keys of a URL's query whose values must not be shown."""
HIDDEN = "***"
"""The replacement of a password in what is shown or written."""


def masked(url: str) -> str:
    """The URL with its passwords hidden, also those in its query."""
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
    except (ArgumentError, ValueError):  # not a valid URL: keep only parts without secrets
        return f"{scheme}://{HIDDEN}@{rest.rpartition('@')[2].partition('?')[0]}"


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def without_passwords(text: str) -> str:
    """A text in which the passwords of all URLs are hidden, to be shown to anyone."""
    return _URL.sub(lambda found: masked(found.group()), text)


def unmasked(url: str) -> str:
    """A URL that can be opened, from one whose password was hidden when it was written.

    The result is a URL that this process was given before, or that of the environment, if it is the
    same except for the password. Otherwise it is the URL without a password, which the database's
    client then looks up elsewhere (PGPASSWORD, ~/.pgpass).
    """
    if HIDDEN not in url:
        _opened[masked(url)] = url
        return url
    known = _opened.get(url) or os.environ.get(VARIABLE, "")
    if known and masked(known) == url:
        return known
    hidden = re.compile(rf"(?<=[?&])({'|'.join(SECRETS)})={re.escape(HIDDEN)}&?", re.IGNORECASE)
    return hidden.sub("", url.replace(f":{HIDDEN}@", "@", 1)).rstrip("?&")

"""Wording: lists, ordinals, durations; and names from elsewhere, escaped for each medium.

Names of heads, classes and files, and the messages of a user's code, come from spaces, archives and
run directories that others made, so they are escaped wherever they are shown or stored.
"""

from __future__ import annotations

import re

from headsearch.errors import UserError

FORMULA_STARTS = tuple("=+-@＝＋－＠")
"""What makes a spreadsheet compute a cell; tabs and line ends, which do too, are escaped anyway."""


def printable(text: str) -> str:
    r"""Text in which nothing steers a terminal: what does not print stands as in Python (`\x1b`).

    That takes in line ends, marks that turn the direction of writing, and the bytes of a file name
    that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Likewise, but line ends stay: for what is laid out in lines already."""
    return "\n".join(map(printable, text.split("\n")))


def for_csv(text: str) -> str:
    """Text as a cell that no spreadsheet takes for a formula (an apostrophe before it)."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(FORMULA_STARTS) else shown


def for_markdown(text: str) -> str:
    """Text as Markdown shows it literally, in a table's cell and at the start of a line too."""
    shown = printable(text.replace("\n", " "))
    escaped = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\|`*_~$\[\]])", r"\\\1", escaped)
    return re.sub(r"^(\s*)([-+#=])", r"\1\\\2", escaped)


def for_file_name(name: str) -> str:
    """The name, where it can be part of a file's name and of nothing else.

    Raises:
        UserError: it has more in it than letters, digits and `.+_-`, or starts otherwise.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", name):
        raise UserError(f"{name!r} is no name of a head: no file is called like that")
    return name


def duration(seconds: float) -> str:
    """312.4 → '5 min 12 s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def listing(names: list[str], *, final: bool = True) -> str:
    """a; a and b; a, b and c. Without `final`, commas alone, for a list that goes on."""
    if len(names) < 2 or not final:
        return ", ".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def ordinal(number: int) -> str:
    """1 → '1st', 2 → '2nd', 3 → '3rd', 11 → '11th'."""
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    return f"{number}{ENDINGS.get(last, 'th')}"

"""Text for users: lists, ordinals, durations; escaping of untrusted names for each medium.

Names of heads, classes and files, and error messages of a user's code, come from spaces, archives
and run directories that others made. They are escaped wherever they are shown or stored.
"""

from __future__ import annotations

import re

from headsearch.errors import UserError

FORMULA_STARTS = tuple("=+-@＝＋－＠")
"""Characters that make a spreadsheet evaluate a cell. Tabs and line ends do too, but `printable`
escapes these anyway."""


def printable(text: str) -> str:
    r"""Text without characters that control a terminal: unprintable ones are escaped (`\x1b`).

    That includes line ends, marks that change the writing direction, and bytes of a file name that
    are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Like `printable`, but keeps line ends: for text that is already laid out in lines."""
    return "\n".join(map(printable, text.split("\n")))


def for_csv(text: str) -> str:
    """Text as a cell that no spreadsheet evaluates: an apostrophe is put before a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(FORMULA_STARTS) else shown


def for_markdown(text: str) -> str:
    """Text that Markdown shows literally, also in a table's cell and at the start of a line."""
    shown = printable(text.replace("\n", " "))
    escaped = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\|`*_~$\[\]])", r"\\\1", escaped)
    return re.sub(r"^(\s*)([-+#=])", r"\1\\\2", escaped)


def for_file_name(name: str) -> str:
    """The name, if it is safe as part of a file name.

    Raises:
        UserError: it has characters other than letters, digits and `.+_-`, or does not start with a
            letter or digit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", name):
        raise UserError(f"{name!r} is no name of a head: it may only have letters, digits and .+_-")
    return name


def duration(seconds: float) -> str:
    """Seconds in words: 312.4 → '5 min 12 s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: '1 head', '3 heads'.

    Args:
        number: the number.
        noun: in the singular.
        plural: if it is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def with_article(words: str) -> str:
    """Words after 'a' or 'an': 'a 4×4 map', 'an 8×8 map', 'an 11 × 11 map', 'an image'.

    Numbers are read out: eight, eleven, eighteen and eighty (thousand, million, …) begin with a
    vowel.
    """
    number = re.match(r"[\d,]+", words)
    if number is None:
        return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"
    digits = number.group().replace(",", "")
    vowel = digits.startswith("8") or (len(digits) % 3 == 2 and digits[:2] in ("11", "18"))
    return f"{'an' if vowel else 'a'} {words}"


ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def listing(names: list[str], *, final: bool = True) -> str:
    """A list in words: 'a'; 'a and b'; 'a, b and c'.

    Args:
        names: the items.
        final: whether 'and' comes before the last item; False for a list that continues.
    """
    if len(names) < 2 or not final:
        return ", ".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def ordinal(number: int) -> str:
    """1 → '1st', 2 → '2nd', 3 → '3rd', 11 → '11th'."""
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    return f"{number}{ENDINGS.get(last, 'th')}"

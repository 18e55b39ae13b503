"""Names and numbers in a sentence."""

from __future__ import annotations

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

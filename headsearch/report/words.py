"""Lists of names in a sentence."""

from __future__ import annotations


def listing(names: list[str], *, final: bool = True) -> str:
    """a; a and b; a, b and c. Without `final`, commas alone, for a list that goes on."""
    if len(names) < 2 or not final:
        return ", ".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"

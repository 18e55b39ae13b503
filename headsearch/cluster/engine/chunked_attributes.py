"""Values of any size as attributes of an Optuna study or trial, which databases bound.

MySQL ends a text at 64 KB, and Optuna writes each attribute as JSON. So a value is written as
JSON, compressed, and cut into pieces, in letters that JSON leaves as they are.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

PIECE = 32 * 1024
"""Characters of a piece at most."""
LARGEST = 256 * 2**20
"""Bytes that a value may unfold to: more was not written here."""


def pieces(name: str, value: Any) -> Iterator[tuple[str, str | int]]:
    """The attributes that hold a value that JSON can hold, NaN included; how many, last.

    Whoever sees the last one sees all, if they are written in their order.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    folded = base64.b64encode(zlib.compress(text, 6)).decode()
    starts = range(0, len(folded), PIECE)
    for index, start in enumerate(starts):
        yield f"{name}.{index}", folded[start : start + PIECE]
    yield name, len(starts)


def whole(name: str, attributes: Mapping[str, Any]) -> Any:
    """The value that these attributes hold.

    Raises:
        KeyError: they hold none of this name.
        ValueError: it was not written by `pieces`.
    """
    folded = "".join(attributes[f"{name}.{index}"] for index in range(attributes[name]))
    unfolding = zlib.decompressobj()
    try:
        text = unfolding.decompress(base64.b64decode(folded), LARGEST)
    except zlib.error as error:
        raise ValueError(f"{name}: {error}") from None
    if not unfolding.eof:
        raise ValueError(f"{name}: cut short, or too large")
    return json.loads(text)

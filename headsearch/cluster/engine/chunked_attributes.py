"""Values of any size in the attributes of an Optuna study or trial, whose size is limited.

MySQL limits a text to 64 KB, and Optuna writes each attribute as JSON. A value is therefore
serialised as JSON, compressed, encoded in Base64 (which JSON does not escape) and split into
pieces.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

PIECE = 32 * 1024
"""Maximum number of characters of a piece."""
LARGEST = 256 * 2**20
"""Maximum size of a value in bytes after decompression; anything larger is rejected on reading."""


def pieces(name: str, value: Any) -> Iterator[tuple[str, str | int]]:
    """The attributes that store a value made of JSON types, NaN included.

    The last attribute holds the number of pieces. If they are written in this order, a reader that
    sees the last one sees all.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    encoded = base64.b64encode(zlib.compress(text, 6)).decode()
    starts = range(0, len(encoded), PIECE)
    for index, start in enumerate(starts):
        yield f"{name}.{index}", encoded[start : start + PIECE]
    yield name, len(starts)


def whole(name: str, attributes: Mapping[str, Any]) -> Any:
    """Reads a value from the attributes that `pieces` wrote.

    Raises:
        KeyError: there is no value of this name.
        ValueError: the value was not written by `pieces`.
    """
    encoded = "".join(attributes[f"{name}.{index}"] for index in range(attributes[name]))
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(base64.b64decode(encoded), LARGEST)
    except zlib.error as error:
        raise ValueError(f"{name}: {error}") from None
    if not decompressor.eof:
        raise ValueError(f"{name}: cut short, or too large")
    return json.loads(text)

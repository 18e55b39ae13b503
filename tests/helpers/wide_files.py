"""Image files that Pillow does not write: PNG and TIFF of 16-bit colours, TIFF of any bands."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def png_16(values_HWC: np.ndarray) -> bytes:
    """A PNG of 16-bit colours, of three channels or with alpha."""
    height, width, channels = values_HWC.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(values_HWC: np.ndarray, extra: list[int] | None = None, *, order: str = "<") -> bytes:
    """An uncompressed TIFF: grey for one or two channels, else RGB with further bands.

    Args:
        values_HWC: the values; integers or floats.
        extra: what the file says about the further bands; None to say nothing.
        order: "<" or ">", the order of bytes.
    """
    height, width, channels = values_HWC.shape
    data = values_HWC.astype(values_HWC.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values_HWC.dtype.kind]
    tags = {
        256: (3, [width]), 257: (3, [height]), 258: (3, [8 * values_HWC.dtype.itemsize] * channels),
        259: (3, [1]), 262: (3, [1 if channels < 3 else 2]), 273: (4, [0]), 277: (3, [channels]),
        278: (3, [height]), 279: (4, [len(data)]), 339: (3, [kind] * channels),
    }  # fmt: skip
    if extra is not None:
        tags[338] = (3, extra)
    start = 8 + 2 + 12 * len(tags) + 4
    packed = {
        tag: struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)
        for tag, (kind, values) in tags.items()
    }
    pixels_at = start + sum(len(value) for value in packed.values() if len(value) > 4)
    packed[273] = struct.pack(order + "I", pixels_at)
    entries, beyond = b"", b""
    for tag in sorted(tags):
        value = packed[tag]
        entries += struct.pack(order + "HHI", tag, tags[tag][0], len(tags[tag][1]))
        if len(value) <= 4:
            entries += value.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "I", start + len(beyond))
            beyond += value
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return head + entries + bytes(4) + beyond + data

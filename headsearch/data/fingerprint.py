"""What a machine's images are like, in few figures: with other images, other heads come first.

Labels and numbers must be the same; pixels may differ by what decoders and processors round
differently, and no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from headsearch.data import Data
from headsearch.data.image.store import Images

LOOKED_AT = 8
"""Images of each set, spread over it."""
CELLS = 4
"""A side of the coarse picture of each."""
TOLERANCE = 2
"""Levels of 255 by which a cell may differ."""


def fingerprint(data: Data) -> dict[str, Any]:
    """The figures of these images, as JSON can hold them."""
    return {
        "sets": {name: _of_images(images) for name, images in _sets(data)},
        "halves": _hash([data.choose.tolist(), data.report.tolist()]),
    }


def difference(here: dict[str, Any], there: dict[str, Any]) -> str | None:
    """What sets images of here apart from those of there, in a few words; None where nothing does.

    Args:
        here: of `fingerprint`.
        there: likewise, where the study was made.
    """
    if here["sets"].keys() != there["sets"].keys():
        return f"{', '.join(here['sets'])} here, and {', '.join(there['sets'])} there"
    for name, own in here["sets"].items():
        other = there["sets"][name]
        for what in ("images", "image_size", "classes"):
            if own[what] != other[what]:
                return f"{name}: {own[what]} {what} here, and {other[what]} there"
        if own["labels"] != other["labels"]:
            return f"{name}: other labels, or the same in another order"
        apart = max(abs(a - b) for a, b in zip(own["pixels"], other["pixels"], strict=True))
        if apart > TOLERANCE:
            return f"{name}: other images, or the same in another order"
    return None if here["halves"] == there["halves"] else "other labels choose than there"


def _sets(data: Data) -> Iterator[tuple[str, Images]]:
    yield "training images", data.train
    if data.bank is not None:
        yield "bank", data.bank
    yield "evaluation images", data.queries


def _of_images(images: Images) -> dict[str, Any]:
    count = len(images)
    spread = torch.linspace(0, count - 1, min(LOOKED_AT, count)).round().to(torch.int64)
    pixels = images.batch(spread).to(torch.float32)
    coarse = nn.functional.adaptive_avg_pool2d(pixels, CELLS)
    labels = images.labels.tolist() if images.labels is not None else None
    return {
        "images": count,
        "image_size": images.image_size,
        "classes": len(images.classes),
        "labels": _hash([labels, list(images.classes)]),
        "pixels": coarse.round().to(torch.int64).flatten().tolist(),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()

"""A fingerprint of a run's images, to check that all machines of a search have the same data.

With other images the ranking of heads would be another. Labels and counts must be equal. Pixels may
differ a little, since decoders and processors round differently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from headsearch.config.domains import IMAGE, WORDS, Words
from headsearch.data import Data
from headsearch.data.image.store import Images

LOOKED_AT = 8
"""The number of images of each set that are compared, spread evenly over the set."""
CELLS = 4
"""The side of the thumbnail of each image in pixels."""
TOLERANCE = 2
"""The largest difference of a thumbnail pixel, in levels of 255."""


def fingerprint(data: Data) -> dict[str, Any]:
    """The fingerprint of a run's images, which can be written as JSON."""
    return {
        "sets": {name: _of_images(images) for name, images in _sets(data)},
        "halves": _hash([data.choose.tolist(), data.report.tolist()]),
    }


def written(images: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint with its pixels as one text in place of hundreds of lines, for YAML."""
    sets = {
        name: {**one, "pixels": bytes(one["pixels"]).hex()} for name, one in images["sets"].items()
    }
    return {**images, "sets": sets}


def read_back(images: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fingerprint that `written` gave; None if it is not one."""
    try:
        sets = {
            name: {**one, "pixels": list(bytes.fromhex(one["pixels"]))}
            for name, one in images["sets"].items()
        }
        return {"sets": sets, "halves": images["halves"]}
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def difference(
    here: dict[str, Any], there: dict[str, Any], words: Words = WORDS[IMAGE]
) -> str | None:
    """The first difference between two fingerprints in a few words; None if there is none.

    Args:
        here: the fingerprint of this process.
        there: the fingerprint of the process or study to compare with.
        words: what the samples are called; fingerprints of all domains call them images.
    """
    samples = words.samples
    called = {"images": samples, "image_size": f"{words.sample}_size", "classes": "classes"}
    if here["sets"].keys() != there["sets"].keys():
        return f"{', '.join(here['sets'])} here, and {', '.join(there['sets'])} there"
    for name, own in here["sets"].items():
        other = there["sets"][name]
        name = name.replace("images", samples)
        for key, text in called.items():
            if own[key] != other[key]:
                return f"{name}: {own[key]} {text} here, and {other[key]} there"
        if own["labels"] != other["labels"]:
            return f"{name}: other labels, or the same in another order"
        largest = max(abs(a - b) for a, b in zip(own["pixels"], other["pixels"], strict=True))
        if largest > TOLERANCE:
            return f"{name}: other {samples}, or the same in another order"
    if here["halves"] == there["halves"]:
        return None
    return "the queries whose labels choose heads are not the same"


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
        "image_size": _size(images),
        "classes": len(images.classes),
        "labels": _hash([labels, list(images.classes)]),
        "pixels": coarse.round().to(torch.int64).flatten().tolist(),
    }


def _size(images: Images) -> int | list[int]:
    """The side of square images; rows and columns of what is no image."""
    shape = images.shape
    return [shape.height, shape.width] if shape.sequence else shape.width


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()

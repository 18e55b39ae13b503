"""`Normalization`: the mean and standard deviation that images are normalised with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headsearch.errors import UserError

AUTO = "auto"
"""The setting that leaves the normalisation to the base's first weights."""


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of the red, green and blue values of images in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        """A name in `NAMED`, or the numbers as a text that `parse` reads."""
        for name, known in NAMED.items():
            if self.is_close(known):
                return name
        return "/".join(",".join(f"{x:g}" for x in part) for part in (self.mean, self.std))

    @property
    def words(self) -> str:
        """The numbers in words, for notes."""
        mean, std = (", ".join(f"{x:g}" for x in part) for part in (self.mean, self.std))
        return f"mean ({mean}) and std ({std})"

    @property
    def words_of_one(self) -> str:
        """The numbers of the first channel in words, for what has only one."""
        return f"mean {self.mean[0]:g} and std {self.std[0]:g}"

    def is_close(self, other: Normalization) -> bool:
        """Whether both are equal to four digits, which is how precisely they are published."""
        pairs = zip((*self.mean, *self.std), (*other.mean, *other.std), strict=True)
        return all(math.isclose(a, b, abs_tol=5e-4) for a, b in pairs)


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's, with which every base is trained whose first weights do not ask for another one."""
NAMED = {
    "imagenet": IMAGENET,
    "inception": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": Normalization(
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ),
}
"""Normalisations by the names of timm's constants."""


def parse(text: str) -> Normalization:
    """The normalisation of a setting: a name, or MEAN/STD, each one number or three.

    `auto` stands for ImageNet's here: what asks for another one is known only with the weights.

    Raises:
        UserError: the text is neither.
    """
    if text in (AUTO, *NAMED):
        return NAMED.get(text, IMAGENET)
    parts = text.split("/")
    try:
        mean, std = ([float(x) for x in part.split(",")] for part in parts)
        return of(mean, std)
    except ValueError:
        raise UserError(
            f"--normalization: {text!r} is neither auto, {', '.join(NAMED)} nor MEAN/STD, such as "
            "0.5,0.5,0.5/0.25,0.25,0.25"
        ) from None


def of(mean: Sequence[float], std: Sequence[float]) -> Normalization:
    """The normalisation with these numbers, one for all colours or one for each.

    Raises:
        ValueError: there are not one or three numbers, or they cannot normalise an image.
    """
    three = [tuple(map(float, part)) * (3 if len(part) == 1 else 1) for part in (mean, std)]
    (r, g, b), (r_std, g_std, b_std) = three
    if not all(math.isfinite(x) for part in three for x in part) or min(three[1]) <= 0:
        raise ValueError("mean and std must be finite, and std above 0")
    return Normalization((r, g, b), (r_std, g_std, b_std))


def of_json(value: Any) -> Normalization | None:
    """The normalisation that `as_json` wrote; None if it is not one."""
    try:
        return of(value["mean"], value["std"])
    except (TypeError, ValueError, KeyError):
        return None


def as_json(normalization: Normalization) -> dict[str, list[float]]:
    """The normalisation as JSON, for the metadata of a weights file."""
    return {"mean": list(normalization.mean), "std": list(normalization.std)}


UNCHANGED = of([0.0], [1.0])
"""What is recorded of inputs that are not normalised: token ids and waveforms."""

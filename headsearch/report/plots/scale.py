"""The scale of an axis that fits its data: linear, logarithmic, or both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.scale import SymmetricalLogTransform

DECADE = 10.0
LINEAR_SHARE = 0.35
"""Width of the linear part of a symlog axis on one side of 0, in decades."""


class Scale(NamedTuple):
    """The scale of an axis.

    Attributes:
        kind: `symlog` is linear up to the threshold and logarithmic beyond it, so that it has a 0.
        threshold: where a symlog scale becomes logarithmic, and the smallest decade with a tick.
    """

    kind: Literal["linear", "log", "symlog"]
    threshold: float = 1.0

    @property
    def words(self) -> str:
        """What the title of the axis says of the scale; empty for a linear one."""
        if self.kind == "linear":
            return ""
        if self.kind == "log":
            return "logarithmic axis"
        return f"symlog axis: linear below {self.threshold:g}, then logarithmic"

    def forward(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Where values lie along the axis, up to its unit."""
        figures_N = np.asarray(values, dtype=float)
        if self.kind == "log":
            return np.asarray(np.log10(figures_N))
        return (
            figures_N if self.kind == "linear" else np.asarray(self._symlog().transform(figures_N))
        )

    def backward(self, places: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The values at places along the axis."""
        places_N = np.asarray(places, dtype=float)
        if self.kind == "linear":
            return places_N
        if self.kind == "log":
            return np.asarray(DECADE**places_N)
        return np.asarray(self._symlog().inverted().transform(places_N))

    def _symlog(self) -> SymmetricalLogTransform:
        return SymmetricalLogTransform(DECADE, self.threshold, LINEAR_SHARE)


def scale_of(values: Sequence[float], *, decades: bool) -> Scale:
    """The scale of an axis that holds `values`; NaN among them is ignored.

    It is linear. It is logarithmic if `decades` is true and the positive values span more than one
    decade. If the axis also holds 0 (the control `identity`), it is linear below the smallest
    decade (symlog).
    """
    finite = [value for value in values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    if not decades or not positive:
        return Scale("linear")
    # Below a hundredth of the largest value, figures are noise around 0 and get no decades.
    smallest = max(min(positive), max(positive) / 100)
    if max(positive) <= DECADE * smallest:
        return Scale("linear")
    threshold = DECADE ** math.floor(math.log10(smallest))
    return Scale("log" if min(finite) >= threshold else "symlog", threshold)

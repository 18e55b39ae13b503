"""Shapes of the built-in scenes: outlines as signed distances, and the patterns of the classes.

Tensors are (M, S, S) for M scenes of S × S pixels, or (M, 1, 1) with the suffix M11 for one number
per scene. A signed distance is negative inside an outline. It is exact only near the outline, where
the edge is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Pattern = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function of coordinates u (right) and v (down) in periods, and of the width of a pixel in
periods (M11). It returns the tone in [0, 1], the fraction of the second of two colours."""


def edge(distance: Tensor, pixel: Tensor | float) -> Tensor:
    """Coverage in [0, 1] of pixels at this distance: 1 inside, 0 outside, a ramp one pixel wide.

    This is a box filter along the gradient, so details smaller than a pixel fade out.
    """
    return (0.5 - distance / pixel).clamp_(0, 1)


def rounded_box(u: Tensor, v: Tensor, half_u: Tensor, half_v: Tensor, corner: Tensor) -> Tensor:
    """Signed distance to a box with rounded corners.

    It is exact outside; inside it is at least minus the radius of the corners.
    """
    outside_u = (u.abs() - (half_u - corner)).clamp_(min=0)
    outside_v = (v.abs() - (half_v - corner)).clamp_(min=0)
    return torch.hypot(outside_u, outside_v) - corner


def rosette(u: Tensor, v: Tensor, points: Tensor, notch: Tensor, roundness: Tensor) -> Tensor:
    """Signed distance to a regular polygon or star with its points on the unit circle, or a disc.

    Args:
        u, v: coordinates in the frame of the object, v down; the first point is at the top.
        points: M11, the number of points, whole numbers from 3.
        notch: M11, how far each side leans inwards in radians: 0 for a polygon, more for a star.
        roundness: M11, 0 for straight sides, 1 for a disc of radius 0.88.
    """
    radius = torch.hypot(u, v)
    sector = 2 * math.pi / points
    turns = torch.atan2(u, -v) / sector
    # By symmetry the plane is folded to half a sector, which one straight line bounds.
    folded = (turns - turns.round()).abs_() * sector
    lean = sector / 2 + notch
    sides = radius * torch.cos(folded - lean) - lean.cos()
    return torch.lerp(sides, radius - 0.88, roundness)


def _wave(phase: Tensor, pixel: Tensor) -> Tensor:
    """A square wave of period 1 in `phase`, with edges of `pixel` periods."""
    return edge(0.25 - (phase - phase.floor() - 0.5).abs(), pixel)


def _offset(x: Tensor) -> Tensor:
    """The signed distance of x from the nearest whole number, in [-0.5, 0.5]."""
    return x - x.round()


def _banded(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    return _wave(v, pixel_M11)


def _checked(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    across, down = _wave(u / 1.6, pixel_M11 / 1.6), _wave(v / 1.6, pixel_M11 / 1.6)
    return across + down - 2 * across * down


def _dotted(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    # A triangular lattice: every second row is shifted by half a step.
    row = (v / 0.87).round()
    return edge(torch.hypot(_offset(u + row / 2), v - 0.87 * row) - 0.36, pixel_M11)


def _meshed(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    hole = torch.maximum(_offset(u / 1.2).abs(), _offset(v / 1.2).abs())
    return edge(hole - 0.34, pixel_M11 / 1.2)


def _plain(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    return torch.full_like(u, 0.5)


def _ringed(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    return _wave(torch.hypot(u, v), pixel_M11)


def _slanted(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    return _wave((u + v) * math.sqrt(0.5), pixel_M11)


def _speckled(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    row = (v / 1.3).round()
    return edge(torch.hypot(1.5 * _offset(u / 1.5 + row / 2), v - 1.3 * row) - 0.36, pixel_M11)


def _striped(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    return _wave(u, pixel_M11)


def _zigzag(u: Tensor, v: Tensor, pixel_M11: Tensor) -> Tensor:
    # Lines have slope 2.4 / 3 = 0.8, so the phase changes hypot(1, 0.8) = 1.28 times as fast across
    # them as along v.
    return _wave(v + 2.4 * _offset(u / 3).abs(), 1.28 * pixel_M11)


PATTERNS: dict[str, Pattern] = {
    "banded": _banded,
    "checked": _checked,
    "dotted": _dotted,
    "meshed": _meshed,
    "plain": _plain,
    "ringed": _ringed,
    "slanted": _slanted,
    "speckled": _speckled,
    "striped": _striped,
    "zigzag": _zigzag,
}

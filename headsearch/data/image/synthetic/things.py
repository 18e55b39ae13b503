"""Renders scenes with one to five labelled things of many sizes, anywhere in the image.

The things are those of `scenes.py`: a patterned object whose class is its pattern. In `scenes` one
large thing stands in the middle, so that where it is needs no detection.

Suffixes: N scenes of a block, 3 colours, S pixels a side, T = 5 things, 1 a broadcast dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from headsearch.data.image.synthetic.counter_rng import CounterRng
from headsearch.data.image.synthetic.scenes import (
    CLASSES,
    Canvas,
    Pose,
    draw_object,
    empty_canvas,
    photographed,
)

MOST_THINGS = 5
RADII = (0.1, 0.6)
"""The smallest and the largest radius; the image spans −1 to 1. Radii are log-uniform between."""
LEAST_SHARE, LEAST_PIXELS = 0.35, 6
"""A thing is labelled if at least this share of it, and so many pixels, are not hidden."""
_BLOCK_PIXELS = 131072  # as in scenes.py


@dataclass(frozen=True)
class Things:
    """Rendered scenes with several things.

    Attributes:
        images: (N, 3, S, S) uint8, RGB.
        masks: (N, S, S) uint8: 0 for the background, k + 1 for the visible part of thing k.
        labels: (N, T) int64, indices into `CLASSES`; −1 for things that are not labelled.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor


def generate_things(count: int, image_size: int, seed: int, start: int = 0) -> Things:
    """Renders scenes `start` to `start + count − 1` of the infinite sequence of a seed."""
    block = len(CLASSES) * max(1, _BLOCK_PIXELS // (len(CLASSES) * image_size**2))
    skipped = start % block  # blocks start at fixed indices, as in scenes.py
    firsts = range(start - skipped, start + count, block)
    blocks = [_render_block(seed, first, block, image_size) for first in firsts]
    wanted = slice(skipped, skipped + count)
    return Things(
        *(torch.cat([getattr(b, f.name) for b in blocks])[wanted] for f in fields(Things))
    )


def _render_block(seed: int, first: int, count: int, size: int) -> Things:
    """Renders `count` scenes from index `first` on; the order of draws defines the data set."""
    indices_N = np.arange(first, first + count, dtype=np.uint64)
    rng = CounterRng(seed ^ 0x7417695, indices_N)
    canvas = empty_canvas(rng, count, size)
    number_N = rng.uniform(1, MOST_THINGS + 1).floor()
    labels, areas = [], []
    for thing in range(MOST_THINGS):
        # A permutation of all classes in every ten scenes, another for each thing.
        shuffled = CounterRng(~seed ^ (thing + 1), indices_N).uniform(0, 1)
        labels_N = shuffled.view(-1, len(CLASSES)).argsort(dim=1, stable=True).flatten()
        _draw(canvas, labels_N, thing, number_N, seed, indices_N)
        labels.append(labels_N)
        areas.append((canvas.masks_NSS == thing + 1).flatten(1).sum(1))
    visible_NT = torch.stack(
        [(canvas.masks_NSS == thing + 1).flatten(1).sum(1) for thing in range(MOST_THINGS)], dim=1
    )
    counts = visible_NT >= (LEAST_SHARE * torch.stack(areas, dim=1)).clamp_min(LEAST_PIXELS)
    labels_NT = torch.where(counts, torch.stack(labels, dim=1), -1)
    return Things(photographed(canvas), canvas.masks_NSS, labels_NT)


def _draw(
    canvas: Canvas,
    labels_N: Tensor,
    thing: int,
    number_N: Tensor,
    seed: int,
    indices_N: np.typing.NDArray[np.uint64],
) -> None:
    """Draws one thing into the scenes that have so many.

    Objects are drawn in the order of their classes, which differs from thing to thing.
    """
    order_N = labels_N.argsort(stable=True)
    rng = CounterRng(seed ^ (0x3217 + thing), indices_N[order_N.numpy()])
    ordered = replace(
        canvas,
        rng=rng,
        pixels_N3SS=canvas.pixels_N3SS[order_N],
        masks_NSS=canvas.masks_NSS[order_N],
        hue_N=canvas.hue_N[order_N],
        light_x_N11=canvas.light_x_N11[order_N],
        light_y_N11=canvas.light_y_N11[order_N],
        light_N11=canvas.light_N11[order_N],
    )
    low, high = map(math.log, RADII)
    radius_N11 = rng.planar(low, high).exp()
    pose = Pose(rng.planar(-0.85, 0.85), rng.planar(-0.85, 0.85), rng.planar(-0.4, 0.4))
    absent_N11 = (number_N[order_N] <= thing).float()[:, None, None]
    # A pattern keeps its size down to a radius of 0.5 and then shrinks with the thing, as far as
    # pixels can show it.
    grain_N11 = (radius_N11 / 0.5).clamp(0.5, 1.0)
    draw_object(ordered, pose, radius_N11, thing + 1, absent_N11, grain_N11)
    canvas.pixels_N3SS[order_N] = ordered.pixels_N3SS
    canvas.masks_NSS[order_N] = ordered.masks_NSS

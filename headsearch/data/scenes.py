"""The built-in dataset: procedural scenes of one labelled thing among clutter, at any size.

Every scene is a pure function of (seed, index): its numbers come from a counter-based generator,
and images of any size show the same scene. The class is what the thing is (its outline and
pattern, see `things.py`); colour, place, size, turn, light, ground, neighbours and what covers it
are drawn independently of it, so that the pixels themselves say little about the class.

Suffixes: N scenes of a block, S pixels a side, 3 colour channels, 1 a broadcast dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import os
ABL=float(os.environ.get('ABL','0'))
SZ=float(os.environ.get('SZ','1.1'))
HUE=os.environ.get('HUE','fixed')
DIST=float(os.environ.get('DIST','1'))
from headsearch.data.things import PATTERNS, edge, rosette, rounded_box
from headsearch.errors import UserError

CLASSES: tuple[str, ...] = tuple(PATTERNS)
MIN_IMAGE_SIZE = 16  # below this a pattern's period falls under two pixels
_BLOCK_PIXELS = 131072  # pixels rendered at once: keeps a block's tensors near the cache


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes with every label that a proxy task may need.

    Attributes:
        images: (N, 3, S, S) uint8, RGB.
        labels: (N,) int64, indices into `CLASSES`.
        masks: (N, S, S) uint8: 0 background, 1 the labelled thing, 2 and up its distractors.
        boxes: (N, 4) float32, x0 y0 x1 y1 in pixels around the visible part of the labelled
            thing; x1 and y1 are the far edges of its last column and row.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    boxes: Tensor


def generate_scenes(count: int, image_size: int, seed: int, start: int = 0) -> Scenes:
    """Renders scenes `start` to `start + count - 1` of the endless sequence that `seed` names.

    Every run of ten scenes that starts at a multiple of ten holds each class once.

    Raises:
        UserError: a count under 1, a size under 16 pixels or a negative start.
    """
    if count < 1 or start < 0:
        raise UserError(f"scenes need a count of at least 1 and a start of at least 0, got {count=}, {start=}")
    if image_size < MIN_IMAGE_SIZE:
        raise UserError(f"scenes need an image size of at least {MIN_IMAGE_SIZE} pixels, got {image_size}")
    # Blocks lie at fixed places in the sequence, so that a scene is computed in the same company
    # whatever part is asked for, and comes out the same to the bit.
    block = len(CLASSES) * max(1, _BLOCK_PIXELS // (len(CLASSES) * image_size**2))
    blocks = [
        _render_block(seed, first, block, image_size)
        for first in range(start - start % block, start + count, block)
    ]
    wanted = slice(start % block, start % block + count)
    return Scenes(
        *(torch.cat([getattr(b, field) for b in blocks])[wanted] for field in Scenes.__annotations__)
    )


class _Dice:
    """Uniform numbers that depend on (seed, scene, how many were drawn before) alone.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) used as a hash of a counter.
    """

    def __init__(self, seed: int, scenes_N: NDArray[np.uint64]) -> None:
        seed_key = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
        self._keys_N1 = _mix(_mix(scenes_N) ^ seed_key)[:, None]
        self._drawn = 0
        self.hue = self.uniform(-.1,.1) if HUE=='fixed' else self.uniform(0,1)

    def uniform(self, low: float, high: float, width: int = 1) -> Tensor:
        """(N, width) float32 in [low, high)."""
        counter_1W = np.arange(self._drawn, self._drawn + width, dtype=np.uint64)[None]
        self._drawn += width
        bits_NW = _mix(self._keys_N1 + counter_1W * np.uint64(0x9E3779B97F4A7C15))
        unit_NW = (bits_NW >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        return torch.from_numpy(low + (high - low) * unit_NW)

    def planar(self, low: float, high: float) -> Tensor:
        """(N, 1, 1): one number a scene, ready to meet its pixels."""
        return self.uniform(low, high)[:, :, None]

    def chance(self, probability: float) -> Tensor:
        """(N, 1, 1) of 0 and 1."""
        return (self.planar(0, 1) < probability).float()


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _labels(seed: int, first: int, count: int) -> Tensor:
    """(count,) int64: each run of len(CLASSES) scenes is a random order of all the classes."""
    scenes = np.arange(first, first + count, dtype=np.uint64)
    order = _Dice(seed ^ 0x5EED, scenes).uniform(0, 1).view(-1, len(CLASSES))
    return order.argsort(dim=1, stable=True).flatten()


@dataclass(frozen=True)
class _Light:
    """One lamp a scene: the direction that it shines towards, and how strongly."""

    x_N11: Tensor
    y_N11: Tensor
    strength_N11: Tensor


@dataclass(frozen=True)
class _Pose:
    """Where a thing stands, in scene units: the image spans [-1, 1] both ways."""

    x_N11: Tensor
    y_N11: Tensor
    turn_N11: Tensor
    size_u_N11: Tensor
    size_v_N11: Tensor

    def local(self, x_1S: Tensor, y_S1: Tensor) -> tuple[Tensor, Tensor]:
        """The scene's pixels in the thing's own frame, (N, S, S) twice."""
        cos, sin = self.turn_N11.cos(), self.turn_N11.sin()
        dx_N1S, dy_NS1 = x_1S - self.x_N11, y_S1 - self.y_N11
        u = dx_N1S * (cos / self.size_u_N11) + dy_NS1 * (sin / self.size_u_N11)
        v = dy_NS1 * (cos / self.size_v_N11) - dx_N1S * (sin / self.size_v_N11)
        return u, v


def _render_block(seed: int, first: int, count: int, size: int) -> Scenes:
    labels_N = _labels(seed, first, count)
    # Scenes of a class are drawn together, so the block is rendered in the order of the classes.
    order_N = labels_N.argsort(stable=True)
    dice = _Dice(seed, (first + order_N.numpy()).astype(np.uint64))
    ticks_S = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    x_1S, y_S1 = ticks_S[None], ticks_S[:, None]
    pixel = 2 / size

    angle_N11 = dice.planar(0, 2 * math.pi)
    light = _Light(angle_N11.cos(), angle_N11.sin(), dice.planar(0.15, 0.4))
    canvas_N3SS = _ground(dice, x_1S, y_S1)
    masks_NSS = torch.zeros(count, size, size, dtype=torch.uint8)

    thing_size_N11 = dice.planar(SZ - 0.2, SZ + 0.2)
    stretch_N11 = dice.planar(0.85, 1.18)
    thing = _Pose(
        dice.planar(-0.2, 0.2),
        dice.planar(-0.2, 0.2),
        dice.planar(-0.25, 0.25),
        thing_size_N11 * stretch_N11,
        thing_size_N11 / stretch_N11,
    )
    for number in (2, 3):
        _draw_distractor(dice, canvas_N3SS, masks_NSS, x_1S, y_S1, light, pixel, number, None)
    _draw_thing(dice, canvas_N3SS, masks_NSS, x_1S, y_S1, light, pixel, thing)
    _draw_distractor(dice, canvas_N3SS, masks_NSS, x_1S, y_S1, light, pixel, 4, thing)

    exposure_N111 = dice.planar(0.65, 1.2)[:, None]
    images = (canvas_N3SS * exposure_N111).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    back_N = order_N.argsort()
    masks_NSS = masks_NSS[back_N]
    return Scenes(images[back_N], labels_N, masks_NSS, _boxes(masks_NSS == 1))


def _rgb(hue_N1: Tensor, saturation_N1: Tensor, value_N1: Tensor) -> Tensor:
    """(N, 3, 1, 1) colours of a hue in turns, a saturation and a value in [0, 1]."""
    offset_3 = torch.tensor([5.0, 3.0, 1.0])
    k_N3 = (offset_3 + 6 * hue_N1) % 6
    ramp_N3 = torch.minimum(k_N3, 4 - k_N3).clamp(0, 1)
    return (value_N1 * (1 - saturation_N1 * ramp_N3))[:, :, None, None]


def _ground(dice: _Dice, x_1S: Tensor, y_S1: Tensor) -> Tensor:
    """(N, 3, S, S): two muted tints in soft folds, brighter on one side."""
    hue = dice.hue + 0.55
    # Opposite hues: what a scene's colours average to tells nothing of the scene.
    tint = _rgb(hue, dice.uniform(0.3, 0.4), dice.uniform(0.5, 0.6))
    other = _rgb(hue + 0.1, dice.uniform(0.3, 0.4), dice.uniform(0.5, 0.6))
    folds = 0
    for octave in (1.5, 3.0, 6.0):
        angle, phase = dice.planar(0, 2 * math.pi), dice.planar(0, 2 * math.pi)
        bend = dice.planar(0, 2 * math.pi)
        along = x_1S * (octave * angle.cos()) + y_S1 * (octave * angle.sin())
        across = y_S1 * (octave * angle.cos()) - x_1S * (octave * angle.sin())
        folds = folds + torch.sin(along + phase + 1.2 * torch.sin(across + bend))
    return torch.lerp(tint, other, (0.5 + folds / 5).clamp_(0, 1)[:, None])


def _shade(canvas: Tensor, distance: Tensor, pixel: float, softness: float, depth: Tensor) -> None:
    """Darkens the canvas, in place, where a shadow falls."""
    shadow = (0.5 - distance / softness).clamp_(0, 1).mul_(depth)
    canvas.mul_((1 - shadow)[:, None])


def _draw_distractor(
    dice: _Dice, canvas: Tensor, masks: Tensor, x_1S: Tensor, y_S1: Tensor, light: _Light,
    pixel: float, number: int, before: _Pose | None,
) -> None:
    """A plain pebble or bar; with `before`, one that covers the rim of that thing."""
    angle, reach = dice.planar(0, 2 * math.pi), dice.planar(0.75, 1.0)
    long, short = dice.planar(0.12, 0.4), dice.planar(0.08, 0.25)
    corner = torch.minimum(long, short) * dice.planar(0.2, 1.0)
    if before is None:
        x, y = dice.planar(-1, 1), dice.planar(-1, 1)
        shown = dice.chance(0.8)
    else:
        x = before.x_N11 + reach * before.size_u_N11 * angle.cos()
        y = before.y_N11 + reach * before.size_u_N11 * angle.sin()
        shown = dice.chance(0.6)
    one = torch.ones_like(x)
    pose = _Pose(x, y, dice.planar(0, math.pi), one, one)
    u, v = pose.local(x_1S, y_S1)
    distance = rounded_box(u, v, long, short, corner) + (1 - shown) * 9
    colour = _rgb(dice.hue + dice.uniform(-.5, .5) * DIST, dice.uniform(0.5, 0.7), dice.uniform(0.5, 0.9))
    if ABL < 1: _shade(canvas, distance - 0.04, pixel, 0.25, 0.45)
    alpha = edge(distance, pixel) * float(ABL < 1)
    glow = 1 - light.strength_N11 * (light.x_N11 * (x_1S - x) + light.y_N11 * (y_S1 - y)) / 0.3
    canvas.lerp_(colour * glow.clamp_(0.5, 1.5)[:, None], alpha[:, None])
    masks.masked_fill_(alpha > 0.5, number)


def _draw_thing(
    dice: _Dice, canvas: Tensor, masks: Tensor, x_1S: Tensor, y_S1: Tensor, light: _Light,
    pixel: float, pose: _Pose,
) -> None:
    size = torch.minimum(pose.size_u_N11, pose.size_v_N11)
    u, v = pose.local(x_1S, y_S1)
    cast = _Pose(pose.x_N11 + 0.12 * light.x_N11, pose.y_N11 + 0.12 * light.y_N11,
                 pose.turn_N11, pose.size_u_N11, pose.size_v_N11)
    shadow_u, shadow_v = cast.local(x_1S, y_S1)
    each = len(u) // len(PATTERNS)
    points = dice.planar(3.5, 8.5).round()
    notch = dice.planar(0, 0.25)
    roundness = dice.planar(-0.3, 1.2).clamp(0, 1)
    distance = rosette(u, v, points, notch, roundness) * size
    shadow = rosette(shadow_u, shadow_v, points, notch, roundness) * size
    period = dice.planar(0.23, 0.35)
    one = torch.ones_like(period)
    u, v = _Pose(pose.x_N11, pose.y_N11, pose.turn_N11, one, one).local(x_1S, y_S1)
    u, v = u / period + dice.planar(-2, 2), v / period + dice.planar(-2, 2)
    tones = [
        pattern(u[c*each:(c+1)*each], v[c*each:(c+1)*each], pixel / period[c*each:(c+1)*each])
        for c, pattern in enumerate(PATTERNS.values())
    ]
    tone = torch.cat(tones)
    _shade(canvas, shadow, pixel, 0.2, 0.5)
    # Two inks far apart in brightness, each running from one hue to the opposite one.
    angle = dice.planar(0, 2 * math.pi)
    along = (0.5 + (angle.cos() * (x_1S - pose.x_N11) + angle.sin() * (y_S1 - pose.y_N11)) / size * 0.6).clamp_(0, 1)[:, None]
    tone = (tone - dice.chance(0.5)).abs_()
    full = torch.ones_like(dice.hue)
    if HUE == 'rainbow':
        ramp = (dice.hue[:, :, None] + (angle.cos() * (x_1S - pose.x_N11) + angle.sin() * (y_S1 - pose.y_N11)) * 0.6)[:, None]
        k = torch.tensor([0., 1 / 3, 2 / 3])[:, None, None]
        wave = torch.cos(2 * math.pi * (ramp + k))
        dark = 0.22 + 0.15 * wave
        bright = 0.82 + 0.18 * torch.roll(wave, 1, 1)
    else:
        dark = _rgb(dice.hue + 0.7, 0.7 * full, 0.35 * full)
        bright = _rgb(dice.hue + 0.13, 0.5 * full, 0.98 * full)
    paint = torch.lerp(dark, bright, tone[:, None])
    dx, dy = (x_1S - pose.x_N11) / size, (y_S1 - pose.y_N11) / size
    glow = 1 - light.strength_N11 * (light.x_N11 * dx + light.y_N11 * dy)
    rim = (1 + distance / 0.08).clamp_(0, 1) * 0.25
    shine = torch.exp(-9 * ((dx + 0.4 * light.x_N11).square() + (dy + 0.4 * light.y_N11).square()))
    if ABL < 2: paint.mul_((glow - rim)[:, None]).add_((0.3 * shine)[:, None])
    alpha = edge(distance, pixel)
    canvas.lerp_(paint, alpha[:, None])
    masks.masked_fill_(alpha > 0.5, 1)


def _boxes(thing_NSS: Tensor) -> Tensor:
    """(N, 4) float32 boxes around the true pixels of each mask."""
    size = thing_NSS.shape[-1]
    columns_NS, rows_NS = thing_NSS.any(dim=1), thing_NSS.any(dim=2)
    sides = []
    for present_NS in (columns_NS, rows_NS):
        present = present_NS.to(torch.uint8)
        sides.append((present.argmax(dim=1), size - present.flip(1).argmax(dim=1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=1).float()

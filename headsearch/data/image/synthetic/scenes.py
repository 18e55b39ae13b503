"""The built-in dataset: procedural scenes of one labelled thing among clutter, at any size.

Every scene is a pure function of (seed, index), and shows the same at every image size. Its class
is the pattern that covers the thing. Outline, place, size, turn, colours, which ink is which,
light, ground, neighbours and what covers the thing are drawn independently of it.

What is random is chosen with self-supervision in mind. Two crops of one image share its colours,
which a contrastive objective would learn first and might never look beyond; so scenes differ in
hue, exposure and contrast about as much as the usual augmentations change them, the light always
falls from above, and the ground stays calm. Patterns have a phase, a period and a turn of their
own, so that neighbours in pixel space need not share a class. One class is plain: told from the
others at a glance, it is where learning takes hold. `benchmarks/scenes.py` measures the outcome.

Suffixes: N scenes of a block, 3 colours, S pixels a side, 1 a broadcast dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from headsearch.data.image.synthetic.counter_rng import Dice
from headsearch.data.image.synthetic.shapes import PATTERNS, edge, rosette, rounded_box
from headsearch.errors import UserError

CLASSES: tuple[str, ...] = tuple(PATTERNS)
MIN_IMAGE_SIZE = 16  # below this, a pattern's period falls under two pixels
_BLOCK_PIXELS = 131072  # pixels rendered at once: bounds the memory, and stays near the cache


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes, with every label that a proxy task may need.

    Attributes:
        images: (N, 3, S, S) uint8, RGB.
        labels: (N,) int64, indices into `CLASSES`.
        masks: (N, S, S) uint8: 0 background, 1 the labelled thing, 2 and up its distractors.
        boxes: (N, 4) float32, x0 y0 x1 y1 in pixels around the visible part of the labelled
            thing: its columns are x0 to x1 − 1, its rows y0 to y1 − 1.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    boxes: Tensor


def generate_scenes(count: int, image_size: int, seed: int, start: int = 0) -> Scenes:
    """Renders scenes `start` to `start + count − 1` of the endless sequence that `seed` names.

    Scenes 10·k to 10·k + 9 hold each class once, in an order of their own.

    Raises:
        UserError: a count under 1, an image size under 16 or a negative start.
    """
    for name, value, low in (
        ("count", count, 1),
        ("image size", image_size, MIN_IMAGE_SIZE),
        ("start", start, 0),
    ):
        if value < low:
            raise UserError(f"scenes: {name} must be at least {low}, got {value}")
    # Blocks lie at fixed places in the sequence. A scene is thus rendered in the same company
    # whatever part is asked for, and comes out the same to the bit.
    block = len(CLASSES) * max(1, _BLOCK_PIXELS // (len(CLASSES) * image_size**2))
    skipped = start % block
    firsts = range(start - skipped, start + count, block)
    blocks = [_render_block(seed, first, block, image_size) for first in firsts]
    wanted = slice(skipped, skipped + count)
    return Scenes(
        *(torch.cat([getattr(b, f.name) for b in blocks])[wanted] for f in fields(Scenes))
    )


def _labels(seed: int, first: int, count: int) -> Tensor:
    """(count,) int64: a random order of all classes, then another, and so on."""
    # A stream of its own: labels must not depend on the numbers that scenes are drawn from.
    dice = Dice(~seed, np.arange(first, first + count, dtype=np.uint64))
    return dice.uniform(0, 1).view(-1, len(CLASSES)).argsort(dim=1, stable=True).flatten()


@dataclass(frozen=True)
class _Pose:
    """Where a thing stands, in scene units: the image spans [−1, 1] both ways, y down."""

    x_N11: Tensor
    y_N11: Tensor
    turn_N11: Tensor

    def local(self, x_11S: Tensor, y_1S1: Tensor) -> tuple[Tensor, Tensor]:
        """The scene's pixels in the thing's own frame: u and v, (N, S, S) each."""
        cos, sin = self.turn_N11.cos(), self.turn_N11.sin()
        dx_N1S, dy_NS1 = x_11S - self.x_N11, y_1S1 - self.y_N11
        return dx_N1S * cos + dy_NS1 * sin, dy_NS1 * cos - dx_N1S * sin


@dataclass(frozen=True)
class _Stage:
    """N scenes in the making; `canvas` and `masks` are painted on in place."""

    dice: Dice
    canvas_N3SS: Tensor
    masks_NSS: Tensor
    x_11S: Tensor
    y_1S1: Tensor
    pixel: float  # a pixel's width in scene units
    hue_N: Tensor  # turns the palette, in turns of the colour wheel
    light_x_N11: Tensor  # the direction in which the light travels, a unit vector
    light_y_N11: Tensor
    light_N11: Tensor  # how much brighter a thing is on its lit side

    def glow(self, x_N11: Tensor, y_N11: Tensor, reach: Tensor) -> Tensor:
        """(N, S, S): the light on a thing of this place and radius, 1 at its centre."""
        lit = self.light_x_N11 * (self.x_11S - x_N11) + self.light_y_N11 * (self.y_1S1 - y_N11)
        return 1 - lit * (self.light_N11 / reach)

    def shade(self, distance_NSS: Tensor, softness: float, depth: float) -> None:
        """Darkens what lies in a shadow, given the distance to the outline that casts it."""
        shadow = (0.5 - distance_NSS / softness).clamp_(0, 1)
        self.canvas_N3SS.mul_((1 - depth * shadow)[:, None])

    def paint(self, colours_N3SS: Tensor, distance_NSS: Tensor, number: int) -> None:
        """Lays an outline's inside over canvas and masks."""
        cover_NSS = edge(distance_NSS, self.pixel)
        self.canvas_N3SS.lerp_(colours_N3SS, cover_NSS[:, None])
        self.masks_NSS.masked_fill_(cover_NSS > 0.5, number)


def _render_block(seed: int, first: int, count: int, size: int) -> Scenes:
    labels_N = _labels(seed, first, count)
    # Scenes of one class lie together while they are rendered: a pattern is computed once for all.
    order_N = labels_N.argsort(stable=True)
    dice = Dice(seed, (first + order_N.numpy()).astype(np.uint64))
    ticks_S = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    x_11S, y_1S1 = ticks_S[None, None], ticks_S[None, :, None]

    hue_N = dice.uniform(-0.08, 0.08)  # about as far as the usual colour jitter turns it
    angle_N11 = dice.planar(1.0, 2.1)  # from above, give or take 32 degrees
    stage = _Stage(
        dice,
        _ground(dice, hue_N, x_11S, y_1S1),
        torch.zeros(count, size, size, dtype=torch.uint8),
        x_11S,
        y_1S1,
        2 / size,
        hue_N,
        angle_N11.cos(),
        angle_N11.sin(),
        dice.planar(0.1, 0.3),
    )
    centre = _Pose(dice.planar(-0.2, 0.2), dice.planar(-0.2, 0.2), dice.planar(-0.4, 0.4))
    reach_N11 = dice.planar(0.8, 1.2)
    for number in (2, 3, 4):
        place = _Pose(dice.planar(-1, 1), dice.planar(-1, 1), dice.planar(0, math.pi))
        _draw_distractor(stage, place, 0.8, number)
    _draw_thing(stage, centre, reach_N11)
    # One more in front, on the rim: it covers a part of the thing and leaves most of it.
    side_N11, out_N11 = dice.planar(0, 2 * math.pi), reach_N11 * dice.planar(0.6, 0.9)
    x_N11, y_N11 = centre.x_N11 + out_N11 * side_N11.cos(), centre.y_N11 + out_N11 * side_N11.sin()
    _draw_distractor(stage, _Pose(x_N11, y_N11, dice.planar(0, math.pi)), 0.6, 5)

    contrast, exposure = dice.planar(0.75, 1.1)[:, None], dice.planar(0.75, 1.25)[:, None]
    canvas_N3SS = (0.45 + (stage.canvas_N3SS - 0.45) * contrast) * exposure
    back_N = order_N.argsort()
    images_N3SS = canvas_N3SS.clamp_(0, 1).mul_(255).round_().to(torch.uint8)[back_N]
    masks_NSS = stage.masks_NSS[back_N]
    return Scenes(images_N3SS, labels_N, masks_NSS, _boxes(masks_NSS == 1))


def _rgb(hue_N: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """(N, 3, 1, 1) RGB in [0, 1] of hues in turns, saturations and values, (N,) or one for all."""
    k_3N = (torch.tensor([5.0, 3.0, 1.0])[:, None] + 6 * hue_N) % 6
    ramp_3N = torch.minimum(k_3N, 4 - k_3N).clamp_(0, 1)
    return (value * (1 - saturation * ramp_3N)).T[:, :, None, None]


def _ground(dice: Dice, hue_N: Tensor, x_11S: Tensor, y_1S1: Tensor) -> Tensor:
    """(N, 3, S, S): two muted neighbouring tints in soft folds."""
    tint = _rgb(hue_N + 0.52, dice.uniform(0.3, 0.4), dice.uniform(0.45, 0.6))
    other = _rgb(hue_N + 0.66, dice.uniform(0.3, 0.4), dice.uniform(0.45, 0.6))
    folds = torch.zeros(1)
    for octave in (1.5, 3.0, 6.0):
        angle, phase = dice.planar(0, 2 * math.pi), dice.planar(0, 2 * math.pi)
        bend = dice.planar(0, 2 * math.pi)
        cos, sin = octave * angle.cos(), octave * angle.sin()
        across = torch.sin(y_1S1 * cos - x_11S * sin + bend)
        folds = folds + torch.sin(x_11S * cos + y_1S1 * sin + phase + 1.2 * across)
    return torch.lerp(tint, other, (0.5 + folds / 5).clamp_(0, 1)[:, None])


def _draw_distractor(stage: _Stage, pose: _Pose, probability: float, number: int) -> None:
    """A plain pebble, bar or card."""
    dice = stage.dice
    half_u, half_v = dice.planar(0.12, 0.35), dice.planar(0.08, 0.22)
    corner = torch.minimum(half_u, half_v) * dice.planar(0.2, 1.0)
    hue_N = stage.hue_N + dice.uniform(0.02, 0.38)
    colour = _rgb(hue_N, dice.uniform(0.45, 0.7), dice.uniform(0.5, 0.9))
    absent = 9 * (1 - dice.chance(probability))  # so far away that no pixel meets it
    u, v = pose.local(stage.x_11S, stage.y_1S1)
    distance = rounded_box(u, v, half_u, half_v, corner) + absent
    stage.shade(distance - 0.04, softness=0.2, depth=0.45)
    glow = stage.glow(pose.x_N11, pose.y_N11, half_u).clamp_(0.6, 1.4)
    stage.paint(colour * glow[:, None], distance, number)


def _draw_thing(stage: _Stage, pose: _Pose, reach_N11: Tensor) -> None:
    """The labelled thing: a polygon, star or disc in two inks, lit, with its shadow."""
    dice = stage.dice
    stretch = dice.planar(0.85, 1.18)
    width, height = reach_N11 * stretch, reach_N11 / stretch
    points, notch = dice.planar(3.5, 8.5).round(), dice.planar(0, 0.25)
    roundness = dice.planar(-0.3, 1.2).clamp_(0, 1)
    u, v = pose.local(stage.x_11S, stage.y_1S1)
    unit = torch.minimum(width, height)
    distance = rosette(u / width, v / height, points, notch, roundness) * unit

    x, y = pose.x_N11 + 0.1 * stage.light_x_N11, pose.y_N11 + 0.1 * stage.light_y_N11
    cast_u, cast_v = _Pose(x, y, pose.turn_N11).local(stage.x_11S, stage.y_1S1)
    cast = rosette(cast_u / width, cast_v / height, points, notch, roundness) * unit
    stage.shade(cast, softness=0.2, depth=0.5)

    period = dice.planar(0.2, 0.3)
    u, v = u / period + dice.planar(-2, 2), v / period + dice.planar(-2, 2)
    each = len(u) // len(PATTERNS)
    inputs = zip(u.split(each), v.split(each), (stage.pixel / period).split(each), strict=True)
    patterns = zip(PATTERNS.values(), inputs, strict=True)
    tone = torch.cat([pattern(*drawn) for pattern, drawn in patterns])
    tone = (tone - dice.chance(0.5)).abs_()  # either ink may be the pattern's
    dark, bright = _rgb(stage.hue_N + 0.4, 0.7, 0.3), _rgb(stage.hue_N, 0.6, 0.95)
    colours = torch.lerp(dark, bright, tone[:, None])

    glow = stage.glow(pose.x_N11, pose.y_N11, unit)
    rim = (1 + distance / 0.08).clamp_(0, 1)
    dx = (stage.x_11S - pose.x_N11) / unit + 0.4 * stage.light_x_N11
    dy = (stage.y_1S1 - pose.y_N11) / unit + 0.4 * stage.light_y_N11
    shine = torch.exp(-9 * (dx.square() + dy.square()))
    colours.mul_((glow - 0.15 * rim)[:, None]).add_((0.15 * shine)[:, None])
    stage.paint(colours, distance, 1)


def _boxes(thing_NSS: Tensor) -> Tensor:
    """(N, 4) float32: x0 y0 x1 y1 around the true pixels of each mask; each has one."""
    spans = []
    for present_NS in (thing_NSS.any(dim=1), thing_NSS.any(dim=2)):
        present = present_NS.to(torch.uint8)  # argmax gives the first of equals
        spans.append((present.argmax(dim=1), present.shape[1] - present.flip(1).argmax(dim=1)))
    (x0, x1), (y0, y1) = spans
    return torch.stack([x0, y0, x1, y1], dim=1).float()

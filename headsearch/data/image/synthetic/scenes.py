"""Renders the built-in dataset: scenes of one labelled, patterned object among distractors.

Every scene is a pure function of (seed, index) and has the same content at every image size. Its
class is the pattern (texture) of the object. Everything else is independent of the class: outline,
position, size, rotation, colours (also which of the two colours forms the pattern), light,
background, distractors and occlusion.

The random factors are chosen for self-supervised learning. Two crops of an image share its colours.
A contrastive objective would learn colours first and might learn nothing else. Scenes therefore
differ in hue, exposure and contrast only about as much as the usual augmentations change them, the
light always comes from above, and the background is smooth. Each pattern has a random phase, period
and rotation, so that similar pixels do not mean the same class. The pattern of one class is a plain
colour; this class is easy to recognise and gives learning a start. `benchmarks/scenes.py` measures
how well a base learns the classes.

Suffixes: N scenes of a block, 3 colours, S pixels a side, 1 a broadcast dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from headsearch.data.image.synthetic.counter_rng import CounterRng
from headsearch.data.image.synthetic.shapes import PATTERNS, edge, rosette, rounded_box
from headsearch.errors import UserError

CLASSES: tuple[str, ...] = tuple(PATTERNS)
MIN_IMAGE_SIZE = 16  # below this, a pattern's period falls under two pixels
_BLOCK_PIXELS = 131072  # pixels rendered at once: bounds the memory, and stays near the cache


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes with labels for classification, segmentation and detection.

    Attributes:
        images: (N, 3, S, S) uint8, RGB.
        labels: (N,) int64, indices into `CLASSES`.
        masks: (N, S, S) uint8: 0 for the background, 1 for the labelled object, 2 and up for
            distractors.
        boxes: (N, 4) float32, x0 y0 x1 y1 in pixels around the visible part of the labelled
            object: its columns are x0 to x1 − 1, its rows y0 to y1 − 1.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    boxes: Tensor


def generate_scenes(count: int, image_size: int, seed: int, start: int = 0) -> Scenes:
    """Renders scenes `start` to `start + count − 1` of the infinite sequence of a seed.

    Scenes 10·k to 10·k + 9 have each class once, in random order.

    Raises:
        UserError: `count` is less than 1, `image_size` less than 16, or `start` negative.
    """
    for name, value, low in (
        ("count", count, 1),
        ("image size", image_size, MIN_IMAGE_SIZE),
        ("start", start, 0),
    ):
        if value < low:
            raise UserError(f"scenes: {name} must be at least {low}, got {value}")
    # Blocks start at fixed indices of the sequence, whatever part of it is requested. A scene is
    # therefore always rendered in the same batch, which makes its pixels bitwise reproducible.
    block = len(CLASSES) * max(1, _BLOCK_PIXELS // (len(CLASSES) * image_size**2))
    skipped = start % block
    firsts = range(start - skipped, start + count, block)
    blocks = [_render_block(seed, first, block, image_size) for first in firsts]
    wanted = slice(skipped, skipped + count)
    return Scenes(
        *(torch.cat([getattr(b, f.name) for b in blocks])[wanted] for f in fields(Scenes))
    )


def _labels(seed: int, first: int, count: int) -> Tensor:
    """(count,) int64: random permutations of all classes, one after another."""
    # Another seed, so that labels are independent of the numbers that scenes are rendered from.
    rng = CounterRng(~seed, np.arange(first, first + count, dtype=np.uint64))
    return rng.uniform(0, 1).view(-1, len(CLASSES)).argsort(dim=1, stable=True).flatten()


@dataclass(frozen=True)
class Pose:
    """Position and rotation of an object in scene units; the image spans [−1, 1], y points down."""

    x_N11: Tensor
    y_N11: Tensor
    angle_N11: Tensor  # radians

    def local(self, x_11S: Tensor, y_1S1: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the pixels in the frame of the object: u and v, (N, S, S) each."""
        cos, sin = self.angle_N11.cos(), self.angle_N11.sin()
        dx_N1S, dy_NS1 = x_11S - self.x_N11, y_1S1 - self.y_N11
        return dx_N1S * cos + dy_NS1 * sin, dy_NS1 * cos - dx_N1S * sin


@dataclass(frozen=True)
class Canvas:
    """N scenes while they are rendered; `pixels_N3SS` and `masks_NSS` are painted on in place."""

    rng: CounterRng
    pixels_N3SS: Tensor
    masks_NSS: Tensor
    x_11S: Tensor
    y_1S1: Tensor
    pixel: float  # width of a pixel in scene units
    hue_N: Tensor  # rotation of all hues, in turns of the colour wheel
    light_x_N11: Tensor  # direction in which the light travels, a unit vector
    light_y_N11: Tensor
    light_N11: Tensor  # how much brighter an object is on its lit side

    def brightness(self, x_N11: Tensor, y_N11: Tensor, radius: Tensor) -> Tensor:
        """(N, S, S): the light on an object with this centre and radius; 1 at the centre."""
        along = self.light_x_N11 * (self.x_11S - x_N11) + self.light_y_N11 * (self.y_1S1 - y_N11)
        return 1 - along * (self.light_N11 / radius)

    def shade(self, distance_NSS: Tensor, softness: float, depth: float) -> None:
        """Darkens the shadow of an outline, given the distance of pixels to it."""
        shadow = (0.5 - distance_NSS / softness).clamp_(0, 1)
        self.pixels_N3SS.mul_((1 - depth * shadow)[:, None])

    def paint(self, colours_N3SS: Tensor, distance_NSS: Tensor, number: int) -> None:
        """Paints the inside of an outline on pixels and masks; `number` is its value in masks."""
        cover_NSS = edge(distance_NSS, self.pixel)
        self.pixels_N3SS.lerp_(colours_N3SS, cover_NSS[:, None])
        self.masks_NSS.masked_fill_(cover_NSS > 0.5, number)


def _render_block(seed: int, first: int, count: int, size: int) -> Scenes:
    """Renders `count` scenes from index `first` on.

    The order of the calls of `rng` is part of the dataset's definition: another order would give
    other scenes.
    """
    labels_N = _labels(seed, first, count)
    # Scenes are sorted by class while they are rendered, so that each pattern is computed once.
    order_N = labels_N.argsort(stable=True)
    rng = CounterRng(seed, (first + order_N.numpy()).astype(np.uint64))
    canvas = empty_canvas(rng, count, size)
    centre = Pose(rng.planar(-0.2, 0.2), rng.planar(-0.2, 0.2), rng.planar(-0.4, 0.4))
    radius_N11 = rng.planar(0.8, 1.2)
    for number in (2, 3, 4):
        pose = Pose(rng.planar(-1, 1), rng.planar(-1, 1), rng.planar(0, math.pi))
        _draw_distractor(canvas, pose, 0.8, number)
    draw_object(canvas, centre, radius_N11)
    # One more distractor in front, near the outline: it covers a small part of the object.
    side_N11, out_N11 = rng.planar(0, 2 * math.pi), radius_N11 * rng.planar(0.6, 0.9)
    x_N11, y_N11 = centre.x_N11 + out_N11 * side_N11.cos(), centre.y_N11 + out_N11 * side_N11.sin()
    _draw_distractor(canvas, Pose(x_N11, y_N11, rng.planar(0, math.pi)), 0.6, 5)

    index_order_N = order_N.argsort()
    images_N3SS = photographed(canvas)[index_order_N]
    masks_NSS = canvas.masks_NSS[index_order_N]
    return Scenes(images_N3SS, labels_N, masks_NSS, boxes_around(masks_NSS == 1))


def empty_canvas(rng: CounterRng, count: int, size: int) -> Canvas:
    """Scenes with a background alone; hues and light are drawn first."""
    ticks_S = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    x_11S, y_1S1 = ticks_S[None, None], ticks_S[None, :, None]
    hue_N = rng.uniform(-0.08, 0.08)  # about as far as the usual colour jitter rotates it
    light_angle_N11 = rng.planar(1.0, 2.1)  # from above, ± 32 degrees
    return Canvas(
        rng,
        _background(rng, hue_N, x_11S, y_1S1),
        torch.zeros(count, size, size, dtype=torch.uint8),
        x_11S,
        y_1S1,
        2 / size,
        hue_N,
        light_angle_N11.cos(),
        light_angle_N11.sin(),
        rng.planar(0.1, 0.3),
    )


def photographed(canvas: Canvas) -> Tensor:
    """The images (N, 3, S, S) uint8 of painted scenes, each with its own contrast and exposure."""
    rng = canvas.rng
    contrast, exposure = rng.planar(0.75, 1.1)[:, None], rng.planar(0.75, 1.25)[:, None]
    pixels_N3SS = (0.45 + (canvas.pixels_N3SS - 0.45) * contrast) * exposure
    return pixels_N3SS.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _rgb(hue_N: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """Converts HSV to RGB in [0, 1], (N, 3, 1, 1); hues in turns, the others (N,) or scalars."""
    k_3N = (torch.tensor([5.0, 3.0, 1.0])[:, None] + 6 * hue_N) % 6
    ramp_3N = torch.minimum(k_3N, 4 - k_3N).clamp_(0, 1)
    return (value * (1 - saturation * ramp_3N)).T[:, :, None, None]


def _background(rng: CounterRng, hue_N: Tensor, x_11S: Tensor, y_1S1: Tensor) -> Tensor:
    """(N, 3, S, S): a smooth mixture of two muted, similar colours, by sums of sine waves."""
    tint = _rgb(hue_N + 0.52, rng.uniform(0.3, 0.4), rng.uniform(0.45, 0.6))
    other = _rgb(hue_N + 0.66, rng.uniform(0.3, 0.4), rng.uniform(0.45, 0.6))
    folds = torch.zeros(1)
    for octave in (1.5, 3.0, 6.0):
        angle, phase = rng.planar(0, 2 * math.pi), rng.planar(0, 2 * math.pi)
        bend = rng.planar(0, 2 * math.pi)
        cos, sin = octave * angle.cos(), octave * angle.sin()
        across = torch.sin(y_1S1 * cos - x_11S * sin + bend)
        folds = folds + torch.sin(x_11S * cos + y_1S1 * sin + phase + 1.2 * across)
    return torch.lerp(tint, other, (0.5 + folds / 5).clamp_(0, 1)[:, None])


def _draw_distractor(canvas: Canvas, pose: Pose, probability: float, number: int) -> None:
    """Draws a distractor with this probability: a rounded box in a plain colour."""
    rng = canvas.rng
    half_u, half_v = rng.planar(0.12, 0.35), rng.planar(0.08, 0.22)
    corner = torch.minimum(half_u, half_v) * rng.planar(0.2, 1.0)
    hue_N = canvas.hue_N + rng.uniform(0.02, 0.38)
    colour = _rgb(hue_N, rng.uniform(0.45, 0.7), rng.uniform(0.5, 0.9))
    absent = 9 * (1 - rng.chance(probability))  # this distance puts it outside of the image
    u, v = pose.local(canvas.x_11S, canvas.y_1S1)
    distance = rounded_box(u, v, half_u, half_v, corner) + absent
    canvas.shade(distance - 0.04, softness=0.2, depth=0.45)
    brightness = canvas.brightness(pose.x_N11, pose.y_N11, half_u).clamp_(0.6, 1.4)
    canvas.paint(colour * brightness[:, None], distance, number)


def draw_object(
    canvas: Canvas,
    pose: Pose,
    radius_N11: Tensor,
    number: int = 1,
    absent_N11: Tensor | None = None,
    grain_N11: Tensor | None = None,
) -> None:
    """Draws a labelled object: a polygon, star or disc with its pattern in two colours.

    It has a shadow, shading and a highlight according to the light. The scenes are sorted by class,
    with as many of each.

    Args:
        canvas: painted on.
        pose: of the objects.
        radius_N11: of the objects.
        number: their value in the masks.
        absent_N11: 1 for scenes without the object, else 0.
        grain_N11: factor on the period of the pattern.
    """
    rng = canvas.rng
    stretch = rng.planar(0.85, 1.18)
    width, height = radius_N11 * stretch, radius_N11 / stretch
    points, notch = rng.planar(3.5, 8.5).round(), rng.planar(0, 0.25)
    roundness = rng.planar(-0.3, 1.2).clamp_(0, 1)
    u, v = pose.local(canvas.x_11S, canvas.y_1S1)
    unit = torch.minimum(width, height)
    distance = rosette(u / width, v / height, points, notch, roundness) * unit
    outside = None if absent_N11 is None else 9 * absent_N11  # beyond the image, as distractors
    if outside is not None:
        distance = distance + outside

    x, y = pose.x_N11 + 0.1 * canvas.light_x_N11, pose.y_N11 + 0.1 * canvas.light_y_N11
    cast_u, cast_v = Pose(x, y, pose.angle_N11).local(canvas.x_11S, canvas.y_1S1)
    cast = rosette(cast_u / width, cast_v / height, points, notch, roundness) * unit
    canvas.shade(cast if outside is None else cast + outside, softness=0.2, depth=0.5)

    period = rng.planar(0.2, 0.3)
    if grain_N11 is not None:
        period = period * grain_N11
    u, v = u / period + rng.planar(-2, 2), v / period + rng.planar(-2, 2)
    each = len(u) // len(PATTERNS)
    inputs = zip(u.split(each), v.split(each), (canvas.pixel / period).split(each), strict=True)
    patterns = zip(PATTERNS.values(), inputs, strict=True)
    tone = torch.cat([pattern(*drawn) for pattern, drawn in patterns])
    tone = (tone - rng.chance(0.5)).abs_()  # exchanges the two colours in half of the scenes
    dark, bright = _rgb(canvas.hue_N + 0.4, 0.7, 0.3), _rgb(canvas.hue_N, 0.6, 0.95)
    colours = torch.lerp(dark, bright, tone[:, None])

    brightness = canvas.brightness(pose.x_N11, pose.y_N11, unit)
    rim = (1 + distance / 0.08).clamp_(0, 1)
    dx = (canvas.x_11S - pose.x_N11) / unit + 0.4 * canvas.light_x_N11
    dy = (canvas.y_1S1 - pose.y_N11) / unit + 0.4 * canvas.light_y_N11
    shine = torch.exp(-9 * (dx.square() + dy.square()))
    colours.mul_((brightness - 0.15 * rim)[:, None]).add_((0.15 * shine)[:, None])
    canvas.paint(colours, distance, number)


def boxes_around(object_NSS: Tensor) -> Tensor:
    """Bounding boxes (N, 4) float32, x0 y0 x1 y1, of masks that each have at least one pixel."""
    spans = []
    for present_NS in (object_NSS.any(dim=1), object_NSS.any(dim=2)):
        present = present_NS.to(torch.uint8)  # argmax returns the first of equal values
        spans.append((present.argmax(dim=1), present.shape[1] - present.flip(1).argmax(dim=1)))
    (x0, x1), (y0, y1) = spans
    return torch.stack([x0, y0, x1, y1], dim=1).float()

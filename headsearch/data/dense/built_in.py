"""The built-in dense sets: the masks and boxes of the rendered scenes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, roi_align

from headsearch.data.dense.images import INSTANCE_SIDE, DenseData, DenseImages, Objects
from headsearch.data.image.synthetic.scenes import CLASSES, generate_scenes
from headsearch.data.image.synthetic.things import MOST_THINGS, generate_things

TRAIN_IMAGES, EVALUATION_IMAGES = 400, 200
TRAIN_START, EVALUATION_START = 2_000_000, 3_000_000
"""Scenes that neither training nor evaluation of a search uses, as long as both stay below."""


def _scenes(count: int, size: int, seed: int, start: int) -> DenseImages:
    """Scenes with one patterned object in the middle, among distractors."""
    scenes = generate_scenes(count, size, seed, start)
    classes = torch.where(scenes.masks >= 2, len(CLASSES) + 1, 0)
    pattern = (1 + scenes.labels)[:, None, None].expand_as(classes)
    masks = torch.where(scenes.masks == 1, pattern, classes).to(torch.int16)
    objects = tuple(
        _objects((mask == 1)[None], label[None])
        for mask, label in zip(scenes.masks, scenes.labels, strict=True)
    )
    return DenseImages(_names(count), scenes.images, tuple(masks), objects)


def _things(count: int, size: int, seed: int, start: int) -> DenseImages:
    """Scenes with one to five patterned objects of many sizes, anywhere."""
    things = generate_things(count, size, seed, start)
    masks, objects = [], []
    for mask, labels in zip(things.masks, things.labels, strict=True):
        classes_of = torch.cat([torch.zeros(1, dtype=torch.int64), labels + 1])
        masks.append(classes_of[mask.long()].to(torch.int16))
        shown = (labels >= 0).nonzero().flatten()
        objects.append(_objects(mask[None] == shown[:, None, None] + 1, labels[shown]))
    return DenseImages(_names(count), things.images, tuple(masks), tuple(objects))


BUILT_IN: dict[str, tuple[Callable[[int, int, int, int], DenseImages], str]] = {
    "scenes": (_scenes, "one object in the middle among distractors; detection says little here"),
    "scenes-things": (_things, f"1 to {MOST_THINGS} objects of many sizes, anywhere"),
}
"""The sets by name: their renderer, and what they show."""


def built_in(name: str, image_size: int, seed: int) -> DenseData:
    """A built-in set, rendered at the size of the run's images."""
    render, words = BUILT_IN[name]
    sets = (
        render(TRAIN_IMAGES, image_size, seed, TRAIN_START),
        render(EVALUATION_IMAGES, image_size, seed, EVALUATION_START),
    )
    distractors = ("distractor",) if name == "scenes" else ()
    note = (
        f"dense data {name} (built in): {words}; {TRAIN_IMAGES} images to fit proxies on, "
        f"{EVALUATION_IMAGES} to score them on"
    )
    return DenseData(name, *sets, ("background", *CLASSES, *distractors), CLASSES, (note,))


def _objects(masks_KSS: Tensor, labels_K: Tensor) -> Objects:
    """Objects from the pixels that each covers; every one covers at least one pixel."""
    side = masks_KSS.shape[-1]
    if not len(masks_KSS):
        empty = torch.zeros(0, INSTANCE_SIDE, INSTANCE_SIDE, dtype=torch.bool)
        return Objects(torch.zeros(0, 4), labels_K, torch.zeros(0, dtype=torch.bool), empty)
    boxes = masks_to_boxes(masks_KSS)
    boxes[:, 2:] += 1  # torchvision's boxes end with the last pixel
    rois = torch.cat([torch.arange(len(boxes))[:, None].float(), boxes], dim=1)
    cover = roi_align(masks_KSS[:, None].float(), rois, INSTANCE_SIDE, aligned=True)
    return Objects(
        boxes / side, labels_K, torch.zeros(len(boxes), dtype=torch.bool), cover[:, 0] >= 0.5
    )


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"scene {number}" for number in range(count))

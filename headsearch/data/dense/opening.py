"""`open_dense`: opens what `--dense-data` names and splits it into training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headsearch.data.dense.annotated import Annotated, Item, MaskReading
from headsearch.data.dense.built_in import BUILT_IN, built_in
from headsearch.data.dense.coco import SUPERCATEGORY
from headsearch.data.dense.formats import AUTO, read_annotated
from headsearch.data.dense.images import GROUPS, VOID, DenseData, evenly_spaced
from headsearch.data.dense.loading import Understood, decode_items, finished, settle
from headsearch.data.dense.mask_files import check_count, class_names
from headsearch.data.dense.places import read_text
from headsearch.errors import UserError
from headsearch.text import counted, listing

MIN_EVALUATION = 4 * GROUPS
"""With fewer evaluation images a group of the jackknife would have a single one."""
MIN_TRAIN = 10
HELD_OUT = 3
"""One of so many contiguous parts is held out of a set without splits."""
PARTS = 15


@dataclass(frozen=True)
class DenseSettings:
    """How dense data are read.

    Attributes:
        image_size: side of the squares that images become.
        format: `--dense-format`.
        classes: `--dense-classes`: a file of names, or `supercategory`.
        ignore: `--dense-ignore`: values of masks that do not count, such as "0,255".
        tiles: whether images are cut into tiles of the image size; the built-in sets are not.
        seed: of the built-in sets.
        train_images, evaluation_images: the most images of each set, evenly spaced.
    """

    image_size: int
    format: str = AUTO
    classes: str | None = None
    ignore: str | None = None
    tiles: bool = False
    seed: int = 0
    train_images: int = 600
    evaluation_images: int = 240


def open_dense(
    spec: str,
    settings: DenseSettings,
    on_share: Callable[[float], object] = lambda _: None,
) -> DenseData:
    """Opens images with masks or boxes.

    Args:
        spec: a built-in set; a folder with splits, or without (a third is held out, in contiguous
            parts, since neighbours may be frames of a video); or two folders with a comma between
            them, the training and the evaluation images.
        settings: how they are read.
        on_share: called with the share of the work that is done.

    Raises:
        UserError: something in them cannot be used.
    """
    if spec in BUILT_IN:
        return built_in(spec, settings.image_size, settings.seed)
    places = check_places(spec)
    found = [read_annotated(place, settings.format, settings.classes) for place in places]
    notes: list[str] = list(dict.fromkeys(note for each in found for note in each.notes))
    train, evaluation = _split(found, spec, notes)
    if len(found) == 2 and found[0].box_classes != found[1].box_classes:
        raise UserError(f"--dense-data {spec}: the two have different classes of boxes")
    picked = [
        [items[i] for i in evenly_spaced(len(items), most)]
        for items, most in (
            (train, settings.train_images), (evaluation, settings.evaluation_images)
        )
    ]  # fmt: skip
    for items, all_items, what in zip(picked, (train, evaluation), SETS, strict=True):
        if len(items) < len(all_items):
            notes.append(f"{what}: {len(items)} of {len(all_items)} images, evenly spaced")
    return _decoded(spec, found[0], picked, settings, notes, on_share)


def check_places(spec: str) -> list[Path]:
    """The folders that `--dense-data` names; none for a built-in set.

    Raises:
        UserError: there are more than two, or nothing is there.
    """
    if spec in BUILT_IN:
        return []
    places = [Path(part.strip()).expanduser() for part in spec.split(",")]
    if len(places) > 2:
        raise UserError(f"--dense-data {spec}: name one folder, or TRAIN,EVAL")
    for place in places:
        if not place.exists():
            built_in = ", ".join(BUILT_IN)
            raise UserError(f"--dense-data {place}: no such folder (built in: {built_in})")
    return places


SETS = ("fitted on", "scored on")


def _split(
    found: Sequence[Annotated], spec: str, notes: list[str]
) -> tuple[list[Item], list[Item]]:
    """The images to fit proxies on, and those to score them on."""
    if len(found) == 2:
        if found[0].format != found[1].format:
            raise UserError(
                f"--dense-data {spec}: one is {found[0].format}, the other {found[1].format}"
            )
        train, evaluation = (
            list(_first(each.splits, names)) or [i for items in each.splits.values() for i in items]
            for each, names in zip(found, (("train",), ("test", "val")), strict=True)
        )
        return train, evaluation
    splits = {name: items for name, items in found[0].splits.items() if _annotated(items)}
    if not splits:
        raise UserError(f"--dense-data {spec}: none of its images has a mask or boxes")
    scored = next((name for name in ("test", "val") if name in splits), None)
    if scored is not None and "train" in splits:
        return list(splits["train"]), list(splits[scored])
    items = [item for part in splits.values() for item in part]
    part = [i * PARTS // len(items) % HELD_OUT == HELD_OUT - 1 for i in range(len(items))]
    notes.append(
        f"no split in train and test or val: a third of the {len(items)} images, in contiguous "
        "parts, is held out to score"
    )
    held_out = [item for item, out in zip(items, part, strict=True) if out]
    return [item for item, out in zip(items, part, strict=True) if not out], held_out


def _first(splits: Mapping[str, Sequence[Item]], names: Sequence[str]) -> Sequence[Item]:
    return next((splits[name] for name in names if splits.get(name)), ())


def _annotated(items: Sequence[Item]) -> bool:
    return any(item.mask is not None or item.things for item in items)


def _decoded(
    spec: str,
    found: Annotated,
    picked: Sequence[Sequence[Item]],
    settings: DenseSettings,
    notes: list[str],
    on_share: Callable[[float], object],
) -> DenseData:
    reading = _reading(found, picked, settings)
    understood = [Understood(), Understood()]
    sets = [
        decode_items(
            items, settings.image_size, reading, seen,
            lambda share, before=index: on_share((before + share) / 2),  # type: ignore[misc]
            tiles=settings.tiles,
        )
        for index, (items, seen) in enumerate(zip(picked, understood, strict=True))
    ]  # fmt: skip
    _check_counts(spec, sets, understood)
    if reading is not None and any(each.values is not None for one in sets for each in one):
        reading = settle(reading, sets)
        check_count(reading, spec)
    painted = reading is not None and not any(item.mask for one in picked for item in one)
    train, evaluation = (
        finished(decoded, reading, seen, painted=painted)
        for decoded, seen in zip(sets, understood, strict=True)
    )
    data = DenseData(
        spec,
        train,
        evaluation,
        (reading.classes or ()) if reading is not None and train.masks is not None else (),
        found.box_classes if train.objects is not None else (),
        (),
    )
    _check_classes(data, understood)
    return replace(data, notes=(*_described(data, found.format, understood), *notes))


def _reading(
    found: Annotated, picked: Sequence[Sequence[Item]], settings: DenseSettings
) -> MaskReading | None:
    """How masks are read, with what the settings say; None without masks."""
    masked = any(item.mask for items in picked for item in items)
    outlined = all(
        thing.outline is not None or thing.ignored
        for items in picked for item in items for thing in item.things or ()
    )  # fmt: skip
    reading = found.reading
    if reading is None or not (masked or outlined):
        return None
    if settings.classes is not None and settings.classes != SUPERCATEGORY and masked:
        names, colours = class_names(read_text(Path(settings.classes), 2**20).splitlines())
        reading = replace(reading, classes=names or None, colours=colours or None, table=None)
    if settings.ignore is not None:
        words = [word.strip() for word in settings.ignore.split(",")]
        if not all(word.isascii() and word.isdigit() for word in words):
            raise UserError(
                f"--dense-ignore {settings.ignore}: should be values of masks such as 0,255"
            )
        reading = replace(reading, void=frozenset(map(int, words)))
    return reading


def _check_counts(spec: str, sets: Sequence[Sequence[object]], seen: Sequence[Understood]) -> None:
    """Raises UserError if there are too few images, or some are in both sets."""
    left_out = [line for each in seen for line in each.lines()]
    why = f"; {left_out[0]}" if left_out else ""
    needed = ((sets[0], MIN_TRAIN, "fit"), (sets[1], MIN_EVALUATION, "score"))
    for images, least, what in needed:
        if len(images) < least:
            raise UserError(
                f"--dense-data {spec}: {counted(len(images), 'usable image')} to {what} proxies "
                f"on; at least {least} are needed{why}"
            )
    both = seen[0].digests.keys() & seen[1].digests.keys()
    if both:
        first = min(seen[1].digests[digest] for digest in both)
        raise UserError(
            f"--dense-data {spec}: {counted(len(both), 'image')} of the evaluation set "
            f"{'is' if len(both) == 1 else 'are'} in the training set too ({first}); remove them "
            "from one of the two"
        )


def _check_classes(data: DenseData, understood: Sequence[Understood]) -> None:
    """Raises UserError if masks or boxes leave nothing to tell apart."""
    name = f"--dense-data {data.name}"
    for seen, what in zip(understood, SETS, strict=True):
        classes = {number for number, pixels in seen.pixels.items() if number != VOID and pixels}
        if data.mask_classes and not classes:
            raise UserError(f"{name}: every pixel of the masks {what} is void; see --dense-ignore")
        if data.mask_classes and len(classes) == 1:
            only = data.mask_classes[min(classes)]
            raise UserError(
                f"{name}: the masks {what} have a single class ({only}), which leaves nothing to "
                "tell apart"
            )
        if data.box_classes and not data.mask_classes and not seen.boxes:
            raise UserError(f"{name}: the images {what} have no usable box")


def _described(data: DenseData, format: str, understood: Sequence[Understood]) -> list[str]:
    """What was understood: format, counts, classes, the share of void pixels."""
    lines = [
        f"dense data {data.name} ({format}): {len(data.train)} images to fit proxies on, "
        f"{len(data.evaluation)} to score them on"
    ]
    if data.evaluation.source_N is not None:
        lines[0] += f" (tiles of {data.evaluation.sources} images)"
    if data.mask_classes:
        pixels = understood[0].pixels + understood[1].pixels
        void = pixels[VOID] / max(1, sum(pixels.values()))
        lines.append(
            f"masks of {len(data.mask_classes)} classes ({_names(data.mask_classes)}), "
            f"{100 * void:.1f}% of the pixels void"
        )
    if data.box_classes:
        boxes = [sum(each.boxes.values()) for each in understood]
        masks = " with masks" if data.has_instance_masks else ""
        lines.append(
            f"{boxes[0]} and {boxes[1]} boxes{masks} of "
            f"{counted(len(data.box_classes), 'class', 'classes')} ({_names(data.box_classes)})"
        )
    return lines + [line for each in understood for line in each.lines()]


def _names(names: Sequence[str], most: int = 12) -> str:
    return listing(list(names[:most]), final=False) + (", …" if len(names) > most else "")

"""Images with their annotations as a format's reader found them, before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headsearch.data.dense.outlines import Outline


@dataclass(frozen=True)
class Thing:
    """One annotated object.

    Attributes:
        box: x0, y0, x1, y1 in the units of the item's frame, the end exclusive.
        label: the index of its class.
        ignored: whether it is a crowd or difficult.
        outline: what it covers; None if not known.
    """

    box: tuple[float, float, float, float]
    label: int
    ignored: bool = False
    outline: Outline | None = None


@dataclass(frozen=True)
class Item:
    """One image and its annotations.

    Attributes:
        image: the file.
        mask: the file of its mask, if there is one.
        things: its objects; None if objects are not annotated.
        frame: width and height that boxes and outlines refer to; by default those of the image.
    """

    image: Path
    mask: Path | None = None
    things: tuple[Thing, ...] | None = None
    frame: tuple[float, float] | None = None


@dataclass(frozen=True)
class MaskReading:
    """How the values of masks become classes.

    Attributes:
        classes: their names; None if they are numbered up to the largest value.
        void: values that do not count.
        table: from values to classes, where they are not the classes themselves. Other values
            are void.
        colours: from colours to classes (`VOID` for void), for masks that are drawn in colours.
        binary: whether values 0 and 255 alone are two classes. None: where no other value is found.
    """

    classes: tuple[str, ...] | None = None
    void: frozenset[int] = frozenset({255})
    table: Mapping[int, int] | None = None
    colours: Mapping[tuple[int, int, int], int] | None = None
    binary: bool | None = None


@dataclass(frozen=True)
class Annotated:
    """A data set as its reader found it.

    Attributes:
        format: the name of the format.
        splits: images by the name of their split (`train`, `val`, `test`; `all` without splits).
        reading: how masks are read; None without masks.
        box_classes: the names of the classes of boxes.
        notes: decisions that the user should know of.
    """

    format: str
    splits: Mapping[str, Sequence[Item]]
    reading: MaskReading | None = None
    box_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

"""`survey`: what the images of a source are like, from a sample: range of values, bands, alpha."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from headsearch.data.image.decode import BadImage, extra_bands
from headsearch.data.image.readers import Source
from headsearch.data.image.wide_values import SAMPLED, Scale, ends_of, measured


def survey(source: Source, scale: Scale) -> tuple[str, ...]:
    """Fits the scale of a source to its values, and says what is done to its images.

    Args:
        source: its `scale` is set.
        scale: that of the images that it is used with, which decides for the kinds that it covers.

    Returns:
        One line for each thing that is done.
    """
    bands = transparent = False
    ends = []
    for image in _sample(source):
        further = extra_bands(image) > 0
        bands |= further
        transparent |= not further and (
            image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
        )
        try:
            found = ends_of(image)
        except Exception:
            continue
        if found is not None:
            ends.append(found)
    own = measured(ends)
    source.scale = scale.with_missing(own)
    notes = [*Scale({kind: source.scale.ranges[kind] for kind in own.ranges}).notes(source.name)]
    if bands:
        notes.append(
            f"{source.name}: of TIFF images with further bands (infra-red, transparency) only the "
            "first three, or the first of a grey image, are used"
        )
    if transparent:
        notes.append(f"{source.name}: transparent images are drawn on white")
    return tuple(notes)


def _sample(source: Source) -> Iterator[Image.Image]:
    """Opened images, spread evenly over a source; bad ones are left out."""
    count = min(SAMPLED, len(source))
    for number in range(count):
        try:
            image = source.opened(number * len(source) // count)
        except (BadImage, OSError):
            continue
        if image is not None:
            yield image

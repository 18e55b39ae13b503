"""How much CPU time it takes to read the photos of a step, and how many cores that keeps busy."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median

from headsearch.config.input_shape import InputShape
from headsearch.config.settings import RunConfig
from headsearch.config.views import views_for
from headsearch.data.factory import Form, Opener
from headsearch.data.image.loading import Loading
from headsearch.data.image.photo_sets import Photos
from headsearch.data.image.photos import STORED
from headsearch.data.image.skipped import LeftOut
from headsearch.data.loader import StepReader
from headsearch.data.settings import DataSettings
from headsearch.errors import UserError
from headsearch.text import counted

STEPS = 4
"""Steps that are read; the first is not counted, because it imports and opens what it needs."""


@dataclass(frozen=True)
class ReadingFindings:
    """What reading from files costs.

    Attributes:
        data: what was read.
        cpu_ms: of one core, to read, decode and crop the photos of a step; the median of 3 steps.
        ms_a_photo: the same for one photo.
        cores: how many cores read as fast as the base alone trains.
    """

    data: str
    cpu_ms: float
    ms_a_photo: float
    cores: int

    @property
    def words(self) -> str:
        """One sentence."""
        return (
            f"reading the photos of a step from {self.data} takes {self.cpu_ms:.0f} ms of one core "
            f"({self.ms_a_photo:.1f} ms a photo): the base alone trains as fast as "
            f"{counted(self.cores, 'core')} can read"
        )


def measure_reading(
    data: str, image_size: int, config: RunConfig, settings: DataSettings, base_ms: float
) -> ReadingFindings:
    """Reads photos from their files as training does, and measures the time of all threads.

    Args:
        data: the photos, as in `--data`.
        image_size: side of the views in pixels.
        config: gives batch size, objective and views.
        settings: how the photos are opened.
        base_ms: a training step of the base alone.

    Raises:
        UserError: there is nothing of this name, or it holds no photos.
    """
    pool = Opener(settings).open(data, "train", STEPS * config.batch_size)
    if not pool.holds_photos(image_size):
        raise UserError(
            f"--data {data}: its images are squares of at most {image_size} pixels, which are kept "
            "in memory; there is nothing to read in a step"
        )
    order = pool.order(config.seed)[: STEPS * config.batch_size]
    form = Form(InputShape.square(image_size), math.ceil(STORED * image_size), cropped=True)
    photos, _ = pool.load(order, form, Loading(memory_limit=1, check="lazy", left_out=LeftOut(1.0)))
    assert isinstance(photos, Photos)
    views = views_for(config.views, config.objective, image_size)
    reader = StepReader(photos, config, views)
    taken = []
    for step in range(STEPS):
        began = time.process_time()
        reader.photos(step)
        taken.append(1000 * (time.process_time() - began))
    cpu_ms = median(taken[1:])
    batch = min(config.batch_size, len(photos))
    return ReadingFindings(data, cpu_ms, cpu_ms / batch, max(1, math.ceil(cpu_ms / base_ms)))

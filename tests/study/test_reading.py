"""`headsearch bench --data` says what reading photos costs, and what is no photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headsearch.config.settings import RunConfig
from headsearch.data import DataSettings
from headsearch.errors import UserError
from headsearch.study.profiling.reading import ReadingFindings, measure_reading
from helpers.image_files import encoded, write


def config() -> RunConfig:
    return RunConfig(batch_size=4, lr=1e-3)


def folder(path: Path, width: int, height: int) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    photo = encoded(Image.fromarray(pixels), "JPEG")
    return str(write(path, {f"{n}.jpg": photo for n in range(20)}))


def test_photos_are_read_as_in_training(tmp_path: Path):
    data = folder(tmp_path / "photos", 200, 100)
    found = measure_reading(data, 64, config(), DataSettings(), base_ms=1e6)
    assert found.data == data
    assert found.cpu_ms > 0
    assert found.ms_a_photo == pytest.approx(found.cpu_ms / 4)
    assert found.cores == 1, "a base that takes a quarter of an hour a step waits for nothing"
    slow = measure_reading(data, 64, config(), DataSettings(), base_ms=found.cpu_ms / 1000)
    assert slow.cores > 100


def test_what_is_kept_in_memory_is_not_measured(tmp_path: Path):
    with pytest.raises(UserError, match="squares of at most 64 pixels"):
        measure_reading(folder(tmp_path / "small", 64, 64), 64, config(), DataSettings(), 1.0)


def test_it_is_said_in_one_sentence():
    found = ReadingFindings("photos", cpu_ms=120.4, ms_a_photo=1.88, cores=3)
    assert found.words == (
        "reading the photos of a step from photos takes 120 ms of one core (1.9 ms a photo): the "
        "base alone trains as fast as 3 cores can read"
    )

"""`DenseScoring`: the dense proxies of a run (`--dense-data`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch.config.normalization import Normalization
from headsearch.config.settings import RunConfig
from headsearch.data.dense import DenseData, DenseSettings, open_dense
from headsearch.data.dense.formats import AUTO, FORMATS
from headsearch.data.dense.opening import check_places
from headsearch.errors import UserError, unknown
from headsearch.evaluation.dense import SMALL_GRID, DenseScorer
from headsearch.evaluation.proxies.grouped_scores import GroupedScores
from headsearch.models.network import Network
from headsearch.runs.console import Loading
from headsearch.training.other_data import OtherDataScoring

IMAGES_CPU, IMAGES_ACCELERATOR = (600, 240), (2_000, 1_000)
"""The most images to fit proxies on, and to score them on."""


@dataclass(frozen=True)
class DenseScoring(OtherDataScoring):
    """The dense proxies of a run.

    Attributes:
        scorer: the proxies and their data.
        grid: that of the base's last map.
        available: the columns that the data give on this grid.
    """

    scorer: DenseScorer
    grid: tuple[int, int]
    available: tuple[str, ...]

    @property
    def data(self) -> DenseData:
        return self.scorer.data

    @property
    def notes(self) -> Iterator[str]:
        yield from self.data.notes
        height, width = self.grid
        if min(self.grid) < SMALL_GRID:
            yield (
                f"warning: the base's map has {height}×{width} patches, which is coarse for dense "
                f"tasks; use a larger --image-size or a smaller --patch-size for {SMALL_GRID}×"
                f"{SMALL_GRID} or more"
            )
        if not self.available:
            yield "warning: the dense data give no score on this grid"

    def of_network(
        self,
        network: Network,
        heads: Sequence[str],
        *,
        autocast: bool,
        normalization: Normalization,
        on_share: Callable[[float], object] = lambda _: None,
    ) -> Mapping[str, GroupedScores]:
        return self.scorer.of_network(
            network, heads, autocast=autocast, normalization=normalization, on_share=on_share
        )


def check_dense_settings(config: RunConfig) -> None:
    """Checks the settings of dense data, as far as that goes without opening any data.

    Raises:
        UserError: the format is unknown, there is nothing at a path, or a setting has no use.
    """
    if config.dense_format not in (AUTO, *FORMATS):
        raise unknown("--dense-format", config.dense_format, (AUTO, *FORMATS))
    if config.dense_data is None:
        given = {"classes": config.dense_classes, "ignore": config.dense_ignore}
        for name, value in given.items():
            if value is not None:
                raise UserError(f"--dense-{name} {value} needs --dense-data")
        return
    check_places(config.dense_data)


def open_dense_scoring(
    config: RunConfig,
    image_size: int,
    grid: tuple[int, int],
    batch_size: int,
    device: torch.device,
    loading: Loading,
) -> DenseScoring | None:
    """Opens the dense data of a run; None without `--dense-data`.

    Args:
        config: the settings.
        image_size: of the run.
        grid: of the base's last map.
        batch_size: images in a forward pass.
        device: of the network.
        loading: told what is being loaded.

    Raises:
        UserError: something in the data cannot be used.
    """
    if config.dense_data is None:
        return None
    train, evaluation = IMAGES_CPU if device.type == "cpu" else IMAGES_ACCELERATOR
    loading(f"opening the dense data {config.dense_data}")
    data = open_dense(
        config.dense_data,
        DenseSettings(
            image_size,
            config.dense_format,
            config.dense_classes,
            config.dense_ignore,
            config.dense_tiles,
            config.seed if config.data_seed is None else config.data_seed,
            train,
            evaluation,
        ),
    )
    scorer = DenseScorer(data, device, batch_size)
    return DenseScoring(fingerprint(data), scorer, grid, scorer.columns(grid))


def fingerprint(data: DenseData) -> str:
    """A hash of the annotations and of the shape of the images.

    Pixels are left out: decoders of different machines round differently.
    """
    digest = hashlib.sha256(repr((data.mask_classes, data.box_classes)).encode())
    for images in (data.train, data.evaluation):
        digest.update(repr((images.names, tuple(images.pixels.shape))).encode())
        for tensor in _annotations(images.masks or (), images.objects or ()):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _annotations(masks: Sequence[Tensor], objects: Sequence[object]) -> Iterator[Tensor]:
    yield from masks
    for each in objects:
        yield from (value for value in vars(each).values() if isinstance(value, Tensor))

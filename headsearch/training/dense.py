"""Dense scores of a run: opens `--dense-data`, and adds its scores to those of a rung."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headsearch.config import normalization
from headsearch.config.settings import RunConfig
from headsearch.data.dense import DenseData, DenseSettings, open_dense
from headsearch.data.dense.formats import AUTO, FORMATS
from headsearch.data.dense.opening import check_places
from headsearch.errors import UserError, unknown
from headsearch.evaluation.dense import SMALL_GRID, DenseScorer
from headsearch.evaluation.rung import OnScoring, ScoringProgress
from headsearch.evaluation.scores import RungScores
from headsearch.models.network import BASE, Network
from headsearch.runs.console import Loading

IMAGES_CPU, IMAGES_ACCELERATOR = (600, 240), (2_000, 1_000)
"""The most images to fit proxies on, and to score them on."""
SHARE = 0.5
"""The share of the dense scores in the progress of scoring."""


@dataclass(frozen=True)
class DenseScoring:
    """The dense proxies of a run.

    Attributes:
        scorer: the proxies and their data.
        grid: that of the base's last map.
        available: the columns that the data give on this grid.
        fingerprint: of images and annotations, to check that a resumed run has the same.
    """

    scorer: DenseScorer
    grid: tuple[int, int]
    available: tuple[str, ...]
    fingerprint: str

    @property
    def data(self) -> DenseData:
        return self.scorer.data

    @property
    def notes(self) -> Iterator[str]:
        """What was understood of the data, and what is doubtful about the grid."""
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

    def added(
        self,
        scores: RungScores,
        network: Network,
        heads: Sequence[str],
        config: RunConfig,
        *,
        autocast: bool,
        on_progress: OnScoring,
    ) -> RungScores:
        """The scores of a rung with the dense scores of the base and of some heads.

        Args:
            scores: of the base and of these heads.
            network: in evaluation mode.
            heads: their names.
            config: the settings of the run.
            autocast: whether matrix products run in bfloat16.
            on_progress: called many times while they are scored.
        """
        done = 0.0

        def on_share(share: float) -> None:
            nonlocal done
            done = min(1.0, done + share)
            on_progress(ScoringProgress(len(heads), len(heads), 1 - SHARE + SHARE * done))

        dense = self.scorer.of_network(
            network,
            heads,
            autocast=autocast,
            normalization=normalization.parse(config.normalization),
            on_share=on_share,
        )
        return replace(
            scores,
            base=replace(scores.base, dense=dense[BASE]),
            heads={name: replace(each, dense=dense[name]) for name, each in scores.heads.items()},
        )


def first_half(on_progress: OnScoring) -> OnScoring:
    """Reports the progress of the other scores as the first part of the whole."""
    return lambda progress: on_progress(replace(progress, share=progress.share * (1 - SHARE)))


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
    return DenseScoring(scorer, grid, scorer.columns(grid), fingerprint(data))


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

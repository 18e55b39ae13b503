"""`Domain`: all that a kind of data decides, from how it is read to what it is called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.config import normalization
from headsearch.config.audio_views import AudioViews
from headsearch.config.domains import Words, words_of
from headsearch.config.input_shape import InputShape
from headsearch.config.normalization import Normalization
from headsearch.config.settings import RunConfig
from headsearch.config.text_views import TextViews
from headsearch.config.views import ViewSettings
from headsearch.config.waveform_views import WaveformViews
from headsearch.data.factory import Form, Opener
from headsearch.data.file_kinds import FileKind
from headsearch.data.image.store import Images
from headsearch.data.image.views import normalize
from headsearch.data.partition import Split
from headsearch.data.settings import DataSettings

Views: TypeAlias = ViewSettings | AudioViews | WaveformViews | TextViews
"""The random views of a domain."""


class Domain(ABC):
    """A kind of data: images, clips of sound, texts.

    All domains keep their decoded samples as uint8 of one shape (C, H, W) for each run, so that
    memory, order, subsets and fingerprints are the same for all.
    """

    name: ClassVar[str]
    files: ClassVar[FileKind]
    """The files that its data sets consist of."""
    settings: ClassVar[tuple[str, ...]]
    """The settings that it alone has."""
    space: ClassVar[str] = "heads.yaml"
    """The search space where `--space` is not given."""

    @property
    def words(self) -> Words:
        """What its data are called."""
        return words_of(self.name)

    def check(self, config: RunConfig) -> None:  # noqa: B027
        """Raises UserError for settings of all domains that have no meaning in this one."""

    @abstractmethod
    def opener(self, settings: DataSettings, *, alone: bool) -> Opener:
        """What opens `--data` and `--eval-data`; see `Opener`."""

    @abstractmethod
    def form(self, split: Split, settings: DataSettings, notes: list[str]) -> Form:
        """The shape of the run's inputs, and how they are decoded.

        Args:
            split: the opened data, which decide where the settings do not.
            settings: those of the data.
            notes: gets what was decided, one line each.
        """

    @abstractmethod
    def resolved(self, form: Form) -> Mapping[str, Any]:
        """The settings that the data have decided, to be recorded."""

    @abstractmethod
    def shape_of(self, config: RunConfig) -> InputShape | None:
        """The shape of the inputs of a run, from its recorded settings; None if they do not say."""

    @abstractmethod
    def views(self, config: RunConfig, shape: InputShape) -> Views:
        """The random views that `--views` asks for. Raises UserError if it has another form."""

    @abstractmethod
    def make_views(
        self,
        batch: Tensor,
        generator: torch.Generator | None,
        views: Views,
        count: int,
        part: tuple[int, int],
        scale: Normalization,
        side: int | None = None,
    ) -> Tensor:
        """`count` random views of each sample of a batch, as the base takes them.

        Those of images and maps are (count, B, C, H, W) float32, normalised.

        Args:
            batch: (B, C, H, W) uint8, on the training device.
            generator: a generator on that device.
            views: the random views.
            count: the number of views of each sample.
            part: (p, n) if the samples are the p-th of n equal parts of a batch.
            scale: the normalisation.
            side: the side of views that are smaller than the samples.
        """

    def as_input(self, batch: Tensor, scale: Normalization) -> Tensor:
        """Samples without augmentation, as the base takes them.

        Args:
            batch: (B, C, H, W) uint8, on the device of the base.
            scale: the normalisation.
        """
        return normalize(batch, scale)

    def normalization(self, text: str, train: Images) -> Normalization:
        """The normalisation that `--normalization` asks for.

        Args:
            text: the setting; `auto` only where no first weights ask for one.
            train: the training data.
        """
        return normalization.parse(text)

    def raw(self, batches: Iterable[Tensor], shape: InputShape, side: int = 32) -> Tensor:
        """The features (N, X) of the baseline without learning: the inputs, shrunk to `side`.

        Args:
            batches: (B, C, H, W) uint8 each, N samples in all.
            shape: of one of them.
            side: the most rows and columns that are kept.
        """
        size = (min(side, shape.height), min(side, shape.width))
        return torch.cat(
            [F.adaptive_avg_pool2d(normalize(batch), size).flatten(1) for batch in batches]
        )

"""`DataSettings`: how many images a run uses, at which size, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headsearch.config.audio_settings import HOP_MS, MELS, WINDOW_MS
from headsearch.config.domains import IMAGE
from headsearch.config.settings import CheckImages
from headsearch.data.image.skipped import MAX_BAD_IMAGES
from headsearch.data.image.store import MEMORY_LIMIT
from headsearch.errors import UserError


@dataclass(frozen=True)
class AudioSettings:
    """How clips become log-mel maps; see `LogMel`. None leaves rate or length to the clips.

    Attributes:
        waveforms: whether clips are kept as waveforms in place of maps.
    """

    sample_rate: int | None = None
    clip_seconds: float | None = None
    window_ms: float = WINDOW_MS
    hop_ms: float = HOP_MS
    mels: int = MELS
    waveforms: bool = False


@dataclass(frozen=True)
class TextSettings:
    """How texts become token ids; see `Encoder`. None leaves it to the texts.

    Attributes:
        tokens: of a text.
        vocab_size: of the vocabulary, where it is made from the texts.
        text_column, label_column: of tables.
        folder: the model folder of the base, which may hold a tokenizer.
    """

    tokens: int | None = None
    vocab_size: int | None = None
    text_column: str | None = None
    label_column: str | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class DataSettings:
    """The settings of `open_data`.

    Attributes:
        image_size: side of the square images in pixels. None: the median of the shorter sides of
            the first images, rounded down to a multiple of 8, from 32 to `max_image_size`.
        images: the most training images; 0 for all of them.
        eval_images: the most queries; 0 for all of `eval_data`, or a fifth of `data` if they are
            held out of it.
        bank_images: the most bank images; 0 for all of them.
        probe_classes: the most classes of bank and queries; 0 for all. There are fewer where each
            would have fewer than 10 bank images.
        seed: decides every choice. The queries do not depend on `images`, nor on `bank_images`
            unless that leaves out classes.
        max_image_size: the largest side in pixels that is chosen, and that images of a stream are
            kept at.
        data_dir: the folder of timm's datasets.
        download: whether timm's datasets may be downloaded.
        memory_limit: bytes of pixels that one set of images may take in memory; larger sets are
            decoded on demand.
        store_size: the shorter side in pixels at which photos are kept in memory. None: 1.75 times
            the image size.
        check: whether the files of sets that are decoded on demand are opened beforehand: all
            (`headers`), none (`lazy`), or those of sets of up to `CHECKED` images (`auto`).
        max_bad_images: the fraction of a set's images that may be unreadable.
        labels: "auto", "folders", "none", or a file of labels; see `Labelling`. Data sets of timm
            or of Python bring their labels with them, which "none" leaves out.
        domain: the kind of data, a name in `DOMAINS`.
        audio: how clips become log-mel maps.
        text: how texts become token ids.

    Raises:
        UserError: a number is negative, a size is not positive, or the fraction is not in [0, 1].
    """

    image_size: int | None = None
    images: int = 0
    eval_images: int = 600
    bank_images: int = 1000
    probe_classes: int = 100
    seed: int = 0
    max_image_size: int = 224
    data_dir: Path | None = None
    download: bool = False
    memory_limit: int = MEMORY_LIMIT
    store_size: int | None = None
    check: CheckImages = "auto"
    max_bad_images: float = MAX_BAD_IMAGES
    labels: str = "auto"
    domain: str = IMAGE
    audio: AudioSettings = AudioSettings()
    text: TextSettings = TextSettings()

    def __post_init__(self) -> None:
        for name in ("images", "eval_images", "bank_images", "probe_classes", "memory_limit"):
            value = getattr(self, name)
            if value < 0:
                raise UserError(f"data: {name} must be 0 or more, but is {value}")
        for name in ("image_size", "max_image_size", "store_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"data: {name} must be 1 pixel or more, but is {value}")
        if self.probe_classes == 1:
            raise UserError("--probe-classes 1 leaves nothing to tell apart; use 2 or more, or 0")
        if not 0 <= self.max_bad_images <= 1:
            raise UserError(
                f"data: max_bad_images is a fraction in [0, 1], but is {self.max_bad_images}"
            )


DEFAULTS = DataSettings()
"""The settings of `open_data` where none are given."""

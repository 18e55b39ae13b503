"""Names of bases of transformers (`hf:TYPE`, `hf:FOLDER`), and what such a base takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsearch.config.audio_settings import HOP_MS, MELS, clip_shape, waveform_shape
from headsearch.config.domains import AUDIO, TEXT
from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError

TRANSFORMERS = "hf:"
"""Stands before the names of bases of transformers."""
WAVEFORM_TYPES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
"""The model types that take waveforms; all others are taken for types of texts.

Not among them are `wav2vec2-conformer`, whose batch norm makes the output of a clip depend on other
clips, and `sew`, whose blocks have fewer tokens than its output."""
SAMPLE_RATE = 16_000
"""Samples per second that the published models of these types take."""
CLIP_SECONDS = 1.0
"""The length of clips to which a base of waveforms is fitted without data."""
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
"""Files of a model folder."""


def is_of_transformers(name: str) -> bool:
    """Whether a name is that of a model type of transformers, or of a model folder."""
    return name.startswith(TRANSFORMERS)


def folder_of(name: str) -> Path | None:
    """The model folder that a name means; None if it means none."""
    if not is_of_transformers(name):
        return None
    text = name.removeprefix(TRANSFORMERS)
    folder = Path(text).expanduser()
    # Of a bare name, a run directory called `bert` is not the model.
    named = folder.name != text or (folder / CONFIG).exists()
    return folder if named and folder.is_dir() else None


def check_folder(name: str) -> None:
    """Raises UserError for a base named by what looks like a folder or a name of the hub."""
    wanted = name.removeprefix(TRANSFORMERS)
    if is_of_transformers(name) and "/" in wanted and folder_of(name) is None:
        raise UserError(
            f"{name}: no such folder, and nothing is loaded from the hub: download the model (hf "
            f"download {wanted} --local-dir FOLDER) and give {TRANSFORMERS}FOLDER"
        )


def domain_of_base(name: str) -> str | None:
    """The domain that a base decides: sounds or texts; None of a base of timm, which does not.

    What cannot be read counts as a base of texts, whose plan says what is wrong.
    """
    if not is_of_transformers(name):
        return None
    folder = folder_of(name)
    kind = (
        name.removeprefix(TRANSFORMERS)
        if folder is None
        else _read(folder / CONFIG).get("model_type")
    )
    return AUDIO if kind in WAVEFORM_TYPES else TEXT


def takes_waveforms(name: str) -> bool:
    """Whether a base takes the waveforms of clips in place of their log-mel maps."""
    return domain_of_base(name) == AUDIO


def rate_of(name: str) -> int | None:
    """The sample rate that the folder of a base of waveforms names; None if it names none.

    Raises:
        UserError: it names no rate that clips can have.
    """
    rate = _preprocessor(name).get("sampling_rate")
    if rate is not None and (not isinstance(rate, int) or not 1000 <= rate <= 192_000):
        raise UserError(f"{name}: {PREPROCESSOR} names {rate!r} as its sampling_rate")
    return rate


def shape_for(
    base: str,
    image_size: int,
    clip_seconds: float | None = None,
    hop_ms: float = HOP_MS,
    mels: int = MELS,
) -> int | InputShape:
    """The inputs that a base of this name is fitted to without data.

    Args:
        base: the name.
        image_size: the side of images, where it takes images.
        clip_seconds: the length of clips; None where it takes images.
        hop_ms, mels: of log-mel maps.
    """
    if takes_waveforms(base):
        seconds = CLIP_SECONDS if clip_seconds is None else clip_seconds
        return waveform_shape(seconds, rate_of(base) or SAMPLE_RATE)
    return image_size if clip_seconds is None else clip_shape(clip_seconds, hop_ms, mels)


def normalizes(name: str) -> bool:
    """Whether a base of waveforms takes them with mean 0 and variance 1, as most do."""
    return _preprocessor(name).get("do_normalize") is not False


def _preprocessor(name: str) -> Mapping[str, Any]:
    """How the folder of a base of waveforms prepares them; empty without a folder or the file."""
    folder = folder_of(name)
    return {} if folder is None or not takes_waveforms(name) else _read(folder / PREPROCESSOR)


def _read(file: Path) -> Mapping[str, Any]:
    """A JSON object; an empty one if it cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

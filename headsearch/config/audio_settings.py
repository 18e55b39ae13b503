"""The settings of `--domain audio`: how clips become log-mel maps or waveforms of one
length."""

from __future__ import annotations

from headsearch.config.input_shape import InputShape
from headsearch.config.panels import AUDIO, setting

WINDOW_MS, HOP_MS, MELS = 25.0, 10.0, 64
STEPS = 16
"""The number of time steps of a map is a multiple of this, which patches and strides divide."""
SHORTEST_MAP, LONGEST_MAP = 32, 4096
"""The least and the largest number of time steps."""

SAMPLE_RATE = setting(
    None,
    "Samples per second that clips are resampled to. [default: the most frequent rate of the "
    "clips, at most 16000; that of a base hf:FOLDER]",
    AUDIO, ge=1000, le=192_000,
)  # fmt: skip
CLIP_SECONDS = setting(
    None,
    "Length that clips are cut or padded to. [default: so long that nine of ten clips fit, at most "
    "10 seconds]",
    AUDIO, gt=0, le=120,
)  # fmt: skip
WINDOW = setting(WINDOW_MS, "Milliseconds of the window of the log-mel map.", AUDIO, ge=1, le=1000)
HOP = setting(
    HOP_MS, "Milliseconds between two time steps of the log-mel map.", AUDIO, ge=1, le=1000
)
MEL_BANDS = setting(MELS, "Number of mel bands of the log-mel map.", AUDIO, ge=16, le=256)


def time_steps(seconds: float, hop_ms: float) -> int:
    """The number of time steps of a map for clips of this length, a multiple of `STEPS`.

    It is the next multiple above, but for a rest of a thousandth, so that it is the same for the
    length that it stands for.
    """
    multiples = -(-(seconds * 1000 / hop_ms - 1e-3) // STEPS)
    return int(min(max(SHORTEST_MAP, multiples * STEPS), LONGEST_MAP))


def seconds_of(steps: int, hop_ms: float) -> float:
    """The length of a clip whose map has this many time steps."""
    return round(steps * hop_ms / 1000, 6)


def clip_shape(seconds: float, hop_ms: float = HOP_MS, mels: int = MELS) -> InputShape:
    """The shape of the log-mel map of a clip of this length."""
    return InputShape(1, mels, time_steps(seconds, hop_ms), sequence=True)


def samples_of(seconds: float, rate: int, hop_ms: float = HOP_MS) -> int:
    """The number of samples of a clip of this length: those of the time steps of its map."""
    return time_steps(seconds, hop_ms) * round(rate * hop_ms / 1000)


def waveform_shape(seconds: float, rate: int) -> InputShape:
    """The shape of the waveform of a clip of this length."""
    return InputShape.waveform(samples_of(seconds, rate), rate)

"""Decodes a clip of sound to a waveform of one channel: WAV by Python itself, else by soundfile."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsearch.data.image.decode import BadImage

MOST_SECONDS = 3600
"""Longer clips are refused: a file of a few bytes may claim any length."""
MOST_CHANNELS = 64
_NEEDS_SOUNDFILE = "needs soundfile to be read: pip install 'headsearch[audio]'"
_FINEST = 1000
"""Rates are resampled by a ratio of whole numbers up to this, so that its filter stays short."""


class BadClip(BadImage):
    """A file that is no usable clip. The message says why, in a few words."""


@dataclass(frozen=True)
class Header:
    """What the head of a clip says: samples per second, number of samples, channels."""

    sample_rate: int
    samples: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


def header_of(data: bytes) -> Header:
    """The header of an encoded clip, from the clip or its start.

    Raises:
        BadClip: it is no clip, or empty.
    """
    if not data:
        raise BadClip("empty file")
    try:
        found = _wave_header(data)
    except _ForSoundfile:
        found = _soundfile_header(data)
    if found.samples < 1:
        raise BadClip("holds no sound")
    if not 0 < found.channels <= MOST_CHANNELS:
        raise BadClip(f"has {found.channels} channels")
    if found.sample_rate < 1 or found.seconds > MOST_SECONDS:
        raise BadClip("claims to be longer than an hour")
    return found


def decode_clip(data: bytes, sample_rate: int, seconds: float) -> NDArray[np.float32]:
    """The middle of a clip as a waveform in [-1, 1], of one channel.

    Several channels are averaged. Another rate is resampled with a polyphase filter
    (`scipy.signal.resample_poly`), by the nearest ratio of whole numbers up to 1000.

    Args:
        data: the encoded clip.
        sample_rate: samples per second of the result.
        seconds: the longest part that is wanted; a longer clip is cut on both sides.

    Returns:
        At most about `seconds · sample_rate` samples.

    Raises:
        BadClip: it is no clip, empty, cut short, or holds values that are no numbers.
    """
    header = header_of(data)
    wanted = min(header.samples, int(np.ceil(seconds * header.sample_rate)))
    start = (header.samples - wanted) // 2
    try:
        samples_TC = _wave_samples(data, header, start, wanted)
    except _ForSoundfile:
        samples_TC = _soundfile_samples(data, start, wanted)
    if len(samples_TC) < wanted:
        raise BadClip("is cut short")
    waveform_T: NDArray[np.float64] = samples_TC.mean(axis=1)
    if not np.isfinite(waveform_T).all():
        raise BadClip("holds values that are not numbers (NaN or infinite)")
    ratio = Fraction(sample_rate, header.sample_rate).limit_denominator(_FINEST)
    if ratio != 1:
        from scipy.signal import resample_poly  # imported here: it takes a second

        up, down = max(1, ratio.numerator), ratio.denominator
        waveform_T = np.asarray(resample_poly(waveform_T, up, down), np.float64)
    return waveform_T.astype(np.float32)


class _ForSoundfile(Exception):  # noqa: N818 - not an error: another reader is to be used
    """The `wave` module does not read this clip."""


_EXTENSIBLE, _WHOLE, _FLOAT = 0xFFFE, 1, 3
"""Tags of formats in a WAV file; behind the first stands another one."""
_FORMAT_BYTES = 24
"""The least length of the chunk that describes the format, with its name."""


def _opened(data: bytes) -> tuple[wave.Wave_read, int]:
    """A WAV file, and the tag of its format.

    The `wave` module reads whole numbers alone, and before Python 3.12 only where the tag says so
    at once. The layout of the other two formats is the same, so it is given that tag.

    Raises:
        BadClip: it is a damaged WAV file.
        _ForSoundfile: it is another format.
    """
    if data[:4] != b"RIFF":
        raise _ForSoundfile
    at = data.find(b"fmt ", 12, 4096)
    if at > 0 and len(data) - at < _FORMAT_BYTES:
        raise BadClip("is no readable WAV file: its head is cut short")
    tag = int.from_bytes(data[at + 8 : at + 10], "little") if at > 0 else _WHOLE
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(data[at + 32 : at + 34], "little")
    if tag not in (_WHOLE, _FLOAT):
        raise _ForSoundfile
    if at > 0:
        data = data[: at + 8] + _WHOLE.to_bytes(2, "little") + data[at + 10 :]
    try:
        return wave.open(io.BytesIO(data), "rb"), tag
    except wave.Error as error:
        raise BadClip(f"is no readable WAV file: {error}") from None
    except (EOFError, ZeroDivisionError, ValueError, RuntimeError):
        raise BadClip("is no readable WAV file: its head is damaged") from None


def _wave_header(data: bytes) -> Header:
    clip, _ = _opened(data)
    with clip:
        return Header(clip.getframerate(), clip.getnframes(), clip.getnchannels())


def _wave_samples(data: bytes, header: Header, start: int, count: int) -> NDArray[np.float64]:
    """Some samples of a WAV file, (T, C) in [-1, 1]."""
    clip, tag = _opened(data)
    with clip:
        width = clip.getsampwidth()
        try:
            clip.setpos(header.samples - 1)
            last = clip.readframes(1)
            clip.setpos(start)
            raw = clip.readframes(count)
        except (wave.Error, EOFError, ValueError, RuntimeError):
            raise BadClip("is cut short") from None
    frame = width * header.channels
    if len(last) < frame or len(raw) < count * frame:
        raise BadClip("is cut short")
    values = _floats(raw, width) if tag == _FLOAT else _whole_numbers(raw, width)
    return values.reshape(-1, header.channels)


def _floats(raw: bytes, width: int) -> NDArray[np.float64]:
    """Little-endian floating-point samples of 4 or 8 bytes."""
    if width not in (4, 8):
        raise BadClip(f"has floating-point samples of {8 * width} bits")
    return np.frombuffer(raw, f"<f{width}").astype(np.float64)


def _whole_numbers(raw: bytes, width: int) -> NDArray[np.float64]:
    """Little-endian samples of 1 (unsigned), 2, 3 or 4 bytes, in [-1, 1]."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:  # as the three high bytes of four
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0] / 2.0**31
    if width not in (2, 4):
        raise BadClip(f"has samples of {8 * width} bits")
    return np.frombuffer(raw, f"<i{width}") / 2.0 ** (8 * width - 1)


_SOUNDS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b"caff", b".snd")
"""How files begin that soundfile may read."""


def _soundfile(data: bytes) -> Any:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: its C library is missing
        sound = data.startswith(_SOUNDS)
        raise BadClip(_NEEDS_SOUNDFILE if sound else "is no WAV, FLAC or OGG file") from None
    return soundfile


def _soundfile_header(data: bytes) -> Header:
    soundfile = _soundfile(data)
    try:
        found = soundfile.info(io.BytesIO(data))
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        raise BadClip("is no clip that soundfile reads") from None
    return Header(int(found.samplerate), int(found.frames), int(found.channels))


def _soundfile_samples(data: bytes, start: int, count: int) -> NDArray[np.float64]:
    soundfile = _soundfile(data)
    try:
        samples, _ = soundfile.read(
            io.BytesIO(data), frames=count, start=start, dtype="float64", always_2d=True
        )
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        raise BadClip("is cut short or damaged") from None
    return np.asarray(samples)

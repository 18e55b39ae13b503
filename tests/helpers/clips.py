"""Small clips of sound for tests: WAV files of tones, written byte by byte or by `wave`."""

from __future__ import annotations

import io
import struct
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.image_files import tar, write

RATE = 8000


def tone(hertz: float, seconds: float, rate: int = RATE, level: float = 0.5) -> NDArray[np.float64]:
    """A sine (T,) in [-1, 1]."""
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def wav(samples: NDArray[np.float64], rate: int = RATE, bits: int = 16) -> bytes:
    """A WAV file of whole numbers, of samples (T,) or (T, C) in [-1, 1)."""
    values = np.atleast_2d(samples.T).T
    out = io.BytesIO()
    with wave.open(out, "wb") as clip:
        clip.setnchannels(values.shape[1])
        clip.setsampwidth(bits // 8)
        clip.setframerate(rate)
        clip.writeframes(_whole(values, bits))
    return out.getvalue()


def _whole(values: NDArray[np.float64], bits: int) -> bytes:
    top = 2 ** (bits - 1)
    numbers = np.clip(np.round(values * top), -top, top - 1).astype(np.int64)
    if bits == 8:
        return (numbers + 128).astype(np.uint8).tobytes()
    return b"".join(int(x).to_bytes(bits // 8, "little", signed=True) for x in numbers.ravel())


def float_wav(samples: NDArray[np.float64], rate: int = RATE) -> bytes:
    """A WAV file of 32-bit floating-point numbers, one channel."""
    return _riff(
        struct.pack("<HHIIHH", 3, 1, rate, 4 * rate, 4, 32), samples.astype("<f4").tobytes()
    )


def extensible_wav(samples: NDArray[np.float64], rate: int = RATE) -> bytes:
    """A WAV file of 24 bits with the extensible head that recorders write."""
    guid = struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
    head = struct.pack("<HHIIHHHHI", 0xFFFE, 1, rate, 3 * rate, 3, 24, 22, 24, 4) + guid
    return _riff(head, _whole(samples, 24))


def _riff(head: bytes, data: bytes) -> bytes:
    chunks = b"fmt " + struct.pack("<I", len(head)) + head
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def tones(each: int = 20, classes: int = 4) -> dict[str, bytes]:
    """Clips of tones with noise by relative name; the folder, a class, decides about the pitch."""
    draw = np.random.default_rng(0)
    files = {}
    for index in range(classes):
        for number in range(each):
            clip = tone(300 * 1.7**index * draw.uniform(0.95, 1.05), draw.uniform(0.25, 0.45))
            noise = 0.05 * draw.standard_normal(len(clip))
            files[f"pitch{index}/{number}.wav"] = wav(clip * draw.uniform(0.3, 1) + noise)
    return files


def tone_folder(root: Path, each: int = 20, classes: int = 4) -> Path:
    """A folder of clips in class folders."""
    return write(root, tones(each, classes))


def tone_tar(path: Path, each: int = 20) -> Path:
    """The same in a tar."""
    return tar(path, tones(each))

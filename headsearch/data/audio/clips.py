"""`ClipPool`: the clips that `--data` names, which become maps or waveforms of one length."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsearch.config.audio_settings import seconds_of, time_steps
from headsearch.data.audio.decode import Header, decode_clip, header_of
from headsearch.data.audio.log_mel import LogMel
from headsearch.data.audio.waveform import Waveform
from headsearch.data.factory import Form, ItemsPool, Opener, Pool, Role
from headsearch.data.file_kinds import CLIPS
from headsearch.data.image.decode import BadImage
from headsearch.data.image.file_source import FileSource
from headsearch.data.image.loading import Loading, load_inputs
from headsearch.data.image.readers import open_named
from headsearch.data.image.source import Items, Source
from headsearch.data.image.store import Images
from headsearch.data.settings import AudioSettings
from headsearch.errors import UserError
from headsearch.text import counted

LOOKED_AT = 200
"""The number of clips, spread evenly over a set, that decide about rate and length."""
HIGHEST_RATE, LONGEST = 16_000, 10.0
"""The highest sample rate and the longest clip in seconds that are chosen."""
FITTING = 0.9
"""The share of clips that fit into the chosen length."""


class ClipSource(Items):
    """The clips of a folder, of archives or of a list; their files are read as bytes."""

    def __init__(self, files: FileSource) -> None:
        self._files = files
        self.name, self.labels, self.classes = files.name, files.labels, files.classes
        self.notes, self.others, self.beside = files.notes, files.others, files.beside

    def __len__(self) -> int:
        return len(self._files)

    def describe(self, index: int) -> str:
        return self._files.describe(index)

    def check(self, index: int) -> None:
        self.header(index)

    def header(self, index: int) -> Header:
        """The header of a clip. Raises BadClip or OSError."""
        try:
            return header_of(self._files.head(index))
        except BadImage:  # the head may be longer than what was read of it
            return header_of(self._files.read(index))

    def decoded(self, index: int, how: LogMel | Waveform) -> NDArray[np.uint8]:
        """A clip as uint8 (C, H, W), cut or padded with silence on both sides.

        Raises:
            BadClip: it is not a usable clip.
            OSError: the file cannot be read.
        """
        waveform = decode_clip(self._files.read(index), how.sample_rate, how.clip_seconds)
        missing = how.length - len(waveform)
        if missing < 0:
            start = -missing // 2
            waveform = waveform[start : start + how.length]
        before = max(0, missing) // 2
        return how.of(np.pad(waveform, (before, max(0, missing) - before)))


class ClipPool(ItemsPool):
    """Clips that are not decoded yet; see `Pool`."""

    noun = CLIPS.noun

    def __init__(self, source: ClipSource) -> None:
        super().__init__(source)
        self.source = source

    def headers(self) -> list[Header]:
        """The headers of some clips, spread evenly over the set; unreadable ones are left out.

        Raises:
            UserError: none of them can be read.
        """
        count, found, why = min(LOOKED_AT, len(self)), [], ""
        for number in range(count):
            index = number * len(self) // count
            try:
                found.append(self.source.header(index))
            except (BadImage, OSError) as error:
                why = why or f"{self.source.describe(index)}: {error}"
        if not found:
            raise UserError(f"{self.name}: none of {counted(count, 'clip')} can be read ({why})")
        return found

    def load(self, indices: Tensor, form: Form, how: Loading) -> tuple[Images, list[str]]:
        clips = form.clips
        assert clips is not None
        self.list_others(how)
        return load_inputs(
            self.source, indices, form.shape, lambda i: self.source.decoded(i, clips), how
        )


class ClipOpener(Opener):
    """Opens the clips that `--data` or `--eval-data` names; see `Opener`."""

    def open(
        self, spec: str | Source, role: Role, count: int | None, without: Path | None = None
    ) -> Pool:
        if isinstance(spec, Source):
            raise UserError(
                f"{spec}: --domain audio reads folders and tars of clips, not a data set"
            )
        files = open_named(spec, role, self.labelling(), without, CLIPS)
        return ClipPool(ClipSource(files))


def fitted_form(headers: Iterable[Header], asked: AudioSettings) -> LogMel | Waveform:
    """What becomes of some clips, where the settings leave rate or length to them."""
    found = list(headers)
    rate = asked.sample_rate
    if rate is None:
        counts = Counter(header.sample_rate for header in found)
        rate = min(HIGHEST_RATE, max(counts, key=lambda each: (counts[each], each)))
    seconds = asked.clip_seconds
    if seconds is None:
        lengths = sorted(header.seconds for header in found)
        seconds = min(LONGEST, lengths[math.ceil(FITTING * len(lengths)) - 1])
    steps = time_steps(seconds, asked.hop_ms)
    length = seconds_of(steps, asked.hop_ms)
    if asked.waveforms:
        return Waveform(rate, length)
    return LogMel(rate, length, asked.window_ms, asked.hop_ms, asked.mels)


def mean_and_std(clips: Images, most: int = 1024) -> tuple[float, float]:
    """Mean and standard deviation of some maps in [0, 1], evenly spread over a set."""
    count = min(most, len(clips))
    spread = torch.linspace(0, len(clips) - 1, count, dtype=torch.float64).round().long()
    values = torch.cat([clips.batch(part).double().flatten() for part in spread.split(256)]) / 255
    return float(values.mean()), max(float(values.std()), 1e-3)

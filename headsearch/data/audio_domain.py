"""`AudioDomain`: clips of sound as log-mel maps of one length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from headsearch.config import normalization
from headsearch.config.audio_settings import clip_shape
from headsearch.config.audio_views import AudioViews, views_for_clips
from headsearch.config.domains import AUDIO
from headsearch.config.input_shape import InputShape
from headsearch.config.normalization import Normalization
from headsearch.config.settings import RunConfig
from headsearch.data.audio.clips import ClipOpener, ClipPool, fitted_log_mel, mean_and_std
from headsearch.data.audio.views import make_clip_views
from headsearch.data.domain import Domain, Views
from headsearch.data.factory import Form, Opener
from headsearch.data.file_kinds import CLIPS
from headsearch.data.image.store import Images
from headsearch.data.partition import Split
from headsearch.data.settings import DataSettings


class AudioDomain(Domain):
    """Clips of sound. All are cut or padded to one length, so no part of a map is invalid."""

    name, files, space = AUDIO, CLIPS, "sequence.yaml"
    settings = ("sample_rate", "clip_seconds", "window_ms", "hop_ms", "mels")

    def opener(self, settings: DataSettings, *, alone: bool) -> Opener:
        return ClipOpener(settings, alone)

    def form(self, split: Split, settings: DataSettings, notes: list[str]) -> Form:
        assert isinstance(split.train_pool, ClipPool)
        headers = split.train_pool.headers()
        log_mel = fitted_log_mel(headers, settings.audio)
        notes.append(
            f"clips are {log_mel.clip_seconds:g} s at {log_mel.sample_rate} Hz: {log_mel.mels} mel "
            f"bands by {log_mel.shape.width} steps of {log_mel.hop_ms:g} ms; longer ones are cut "
            "on both sides, shorter ones padded with silence"
        )
        longer = sum(header.seconds > log_mel.clip_seconds * 1.001 for header in headers)
        if longer:
            are = "is" if longer == 1 else "are"
            notes.append(f"{longer} of {len(headers)} clips that were looked at {are} cut")
        return Form(log_mel.shape, log_mel=log_mel)

    def resolved(self, form: Form) -> Mapping[str, Any]:
        assert form.log_mel is not None
        rate, seconds = form.log_mel.sample_rate, form.log_mel.clip_seconds
        return {"sample_rate": rate, "clip_seconds": seconds}

    def shape_of(self, config: RunConfig) -> InputShape | None:
        if config.clip_seconds is None:
            return None
        return clip_shape(config.clip_seconds, config.hop_ms, config.mels)

    def views(self, config: RunConfig, shape: InputShape) -> Views:
        return views_for_clips(config.views)

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
        return make_clip_views(batch, generator, cast(AudioViews, views), count, part, scale)

    def normalization(self, text: str, train: Images) -> Normalization:
        if text != normalization.AUTO:
            return normalization.parse(text)
        mean, std = mean_and_std(train)
        return normalization.of([mean], [std])

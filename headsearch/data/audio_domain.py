"""`AudioDomain`: clips of sound of one length, as log-mel maps or as waveforms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from headsearch.config import normalization
from headsearch.config.audio_settings import clip_shape, waveform_shape
from headsearch.config.audio_views import AudioViews, views_for_clips
from headsearch.config.base_names import takes_waveforms
from headsearch.config.domains import AUDIO
from headsearch.config.input_shape import SAMPLE_BYTES, InputShape
from headsearch.config.normalization import UNCHANGED, Normalization
from headsearch.config.settings import RunConfig
from headsearch.config.waveform_views import WaveformViews, views_for_waveforms
from headsearch.data.audio.clips import ClipOpener, ClipPool, fitted_form, mean_and_std
from headsearch.data.audio.log_mel import LogMel
from headsearch.data.audio.views import make_clip_views
from headsearch.data.audio.waveform import log_mels, samples
from headsearch.data.audio.waveform_views import make_waveform_views
from headsearch.data.domain import Domain, Views
from headsearch.data.factory import Form, Opener
from headsearch.data.file_kinds import CLIPS
from headsearch.data.image.store import Images
from headsearch.data.partition import Split
from headsearch.data.settings import DataSettings
from headsearch.errors import UserError

OF_MAPS = ("window_ms", "hop_ms", "mels", "patch_size", "base_weights", "compile")
"""Settings that a base of waveforms has no use for."""


class AudioDomain(Domain):
    """Clips of sound. All are cut or padded to one length, so no part of a map is invalid.

    A base of transformers takes waveforms, any other one log-mel maps.
    """

    name, files, space = AUDIO, CLIPS, "sequence.yaml"
    settings = ("sample_rate", "clip_seconds", "window_ms", "hop_ms", "mels")

    def check(self, config: RunConfig) -> None:
        if not takes_waveforms(config.base):
            return
        for name in OF_MAPS:
            if getattr(config, name) != RunConfig.model_fields[name].default:
                raise UserError(
                    f"--{name.replace('_', '-')} is for bases of log-mel maps, and {config.base} "
                    "takes waveforms: leave it out"
                )
        if config.normalization not in (normalization.AUTO, str(UNCHANGED)):
            raise UserError(
                f"--normalization is for log-mel maps, and {config.base} takes waveforms: leave it "
                "out"
            )
        if config.objective == "mae":
            raise UserError(
                f"--objective mae has no target for {config.base}: the samples behind a token of a "
                "waveform cannot be predicted; use ibot, or simclr"
            )

    def opener(self, settings: DataSettings, *, alone: bool) -> Opener:
        return ClipOpener(settings, alone)

    def form(self, split: Split, settings: DataSettings, notes: list[str]) -> Form:
        assert isinstance(split.train_pool, ClipPool)
        headers = split.train_pool.headers()
        clips = fitted_form(headers, settings.audio)
        notes.append(
            f"clips are {clips.clip_seconds:g} s at {clips.sample_rate} Hz: "
            f"{_sizes(clips) if isinstance(clips, LogMel) else f'{clips.length} samples'}; longer "
            "ones are cut on both sides, shorter ones padded with silence"
        )
        longer = sum(header.seconds > clips.clip_seconds * 1.001 for header in headers)
        if longer:
            are = "is" if longer == 1 else "are"
            notes.append(f"{longer} of {len(headers)} clips that were looked at {are} cut")
        return Form(clips.shape, clips=clips)

    def resolved(self, form: Form) -> Mapping[str, Any]:
        assert form.clips is not None
        return {"sample_rate": form.clips.sample_rate, "clip_seconds": form.clips.clip_seconds}

    def shape_of(self, config: RunConfig) -> InputShape | None:
        if config.clip_seconds is None:
            return None
        if not takes_waveforms(config.base):
            return clip_shape(config.clip_seconds, config.hop_ms, config.mels)
        if config.sample_rate is None:
            return None
        return waveform_shape(config.clip_seconds, config.sample_rate)

    def views(self, config: RunConfig, shape: InputShape) -> Views:
        of_waveforms = takes_waveforms(config.base)
        return (views_for_waveforms if of_waveforms else views_for_clips)(config.views)

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
        if isinstance(views, WaveformViews):
            return make_waveform_views(batch, generator, views, count, part)
        return make_clip_views(batch, generator, cast(AudioViews, views), count, part, scale)

    def as_input(self, batch: Tensor, scale: Normalization) -> Tensor:
        """Log-mel maps normalised; waveforms in [-1, 1), which a base scales by itself."""
        return samples(batch) if _holds_waveforms(batch) else super().as_input(batch, scale)

    def normalization(self, text: str, train: Images) -> Normalization:
        if train.shape.rate:
            return UNCHANGED
        if text != normalization.AUTO:
            return normalization.parse(text)
        mean, std = mean_and_std(train)
        return normalization.of([mean], [std])

    def raw(self, batches: Iterable[Tensor], shape: InputShape, side: int = 32) -> Tensor:
        """The log-mel map of each clip, shrunk to `side`; also of clips that are waveforms."""
        if not shape.rate:
            return super().raw(batches, shape, side)
        maps = list(log_mels(batches, shape))
        return super().raw(
            maps, InputShape(1, maps[0].shape[2], maps[0].shape[3], sequence=True), side
        )


def _sizes(log_mel: LogMel) -> str:
    return f"{log_mel.mels} mel bands by {log_mel.shape.width} steps of {log_mel.hop_ms:g} ms"


def _holds_waveforms(batch: Tensor) -> bool:
    """Whether clips (B, C, H, W) uint8 are waveforms: log-mel maps have one channel."""
    return batch.shape[1] == SAMPLE_BYTES

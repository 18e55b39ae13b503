"""`WaveformViews`: how the random views of training clips are drawn from their waveforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsearch.config.view_text import AUTO, PUBLISHED, ViewsBase, parsed

NAMES = (AUTO, PUBLISHED)


@dataclass(frozen=True)
class WaveformViews(ViewsBase):
    """The augmentations of the waveform of each clip, in the order in which they are applied.

    All of them are published: mixing and the fader in BYOL-A (Niizumi et al. 2021, arXiv
    2103.06695), there on log-mel maps; another speed by Ko et al., *Audio augmentation for speech
    recognition*, Interspeech 2015; shifts, noise and hidden parts of the time in CLAR (Al-Tahan and
    Mohsenzadeh 2021, arXiv 2010.09542); a band that is taken out in WavAugment (Kharitonov et al.
    2021, arXiv 2007.00991). Together they are a choice of our own.

    Attributes:
        mixup: largest share of the power of another clip of the step that is mixed in.
        speed: lowest and highest speed of a clip, which changes its pitch likewise.
        shift: largest shift in time, earlier or later, as a share of the clip. What comes into it
            is silent.
        fader: largest gain in dB, up or down, at each end of a clip; linear in between.
        band_mask: widest band of frequencies that is taken out, as a share of a scale like mel.
        noise: lowest and highest signal-to-noise ratio of white noise in dB.
        time_mask: largest share of the time that is silenced.

    Raises:
        UserError: a value is out of its range.
    """

    mixup: float = 0.4
    speed: tuple[float, float] = (0.9, 1.1)
    shift: float = 0.2
    fader: float = 6.0
    band_mask: float = 0.2
    noise: tuple[float, float] = (10.0, 40.0)
    time_mask: float = 0.2
    local_views: ClassVar[int] = 0
    """There are no local crops of clips."""

    def __post_init__(self) -> None:
        for name in ("mixup", "shift", "band_mask", "time_mask"):
            self._check(name, 0 <= getattr(self, name) < 1, "a share in [0, 1)")
        slow, fast = self.speed
        self._check("speed", 0.25 <= slow <= fast <= 4, "low/high with 0.25 <= low <= high <= 4")
        self._check("fader", 0 <= self.fader <= 40, "a number of dB from 0 to 40")
        low, high = self.noise
        self._check("noise", -20 <= low <= high <= 100, "low/high in dB, from -20 to 100")

    @property
    def words(self) -> str:
        """The settings in a few words, for notes."""
        (slow, fast), (low, high) = self.speed, self.noise
        return (
            f"mix-up {self.mixup:g}, speed {slow:g} to {fast:g}, shifts of up to "
            f"{100 * self.shift:g} % of the time, fader {self.fader:g} dB, bands of up to "
            f"{100 * self.band_mask:g} % taken out, noise at {low:g} to {high:g} dB, masks of up "
            f"to {100 * self.time_mask:g} % of the time"
        )


def views_for_waveforms(text: str) -> WaveformViews:
    """The views that a setting asks for: `auto`, `published` (the same), and changes to them.

    Raises:
        UserError: the text has another form, or a value is out of its range.
    """
    _, changes = parsed(text, NAMES, WaveformViews())
    return WaveformViews(**changes)


ONLY_OF_WAVEFORMS = ("speed", "shift", "band_mask")
"""The settings of these views that no others have."""

"""`AudioViews`: how the random views of training clips are drawn, in the form of BYOL-A."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from headsearch.config.view_text import AUTO, PUBLISHED, ViewsBase, parsed

NAMES = (AUTO, PUBLISHED)


@dataclass(frozen=True)
class AudioViews(ViewsBase):
    """The augmentations of the log-mel maps of each clip, in the order in which they are applied.

    The form is that of BYOL-A (Niizumi et al. 2021, arXiv 2103.06695, and 2022, arXiv 2204.07402),
    with masks after SpecAugment (Park et al. 2019, arXiv 1904.08779). Nothing is flipped.

    Attributes:
        mixup: largest share of the power of another clip of the step that is mixed in.
        time_scale: smallest and largest length of a crop, as a share of the clip. A crop above 1
            reaches beyond the clip.
        frequency_scale: smallest and largest height of a crop, as a share of the bands; what is
            above 1 counts as 1.
        fader: largest gain in dB, up or down, at each end of a clip; linear in between.
        noise: largest standard deviation of the Gaussian noise on each value, in dB.
        time_mask: largest share of the time that is hidden.
        frequency_mask: largest share of the bands that is hidden.

    Raises:
        UserError: a value is out of its range.
    """

    mixup: float = 0.4
    time_scale: tuple[float, float] = (0.6, 1.5)
    frequency_scale: tuple[float, float] = (0.6, 1.5)
    fader: float = 6.0
    noise: float = 3.0
    time_mask: float = 0.2
    frequency_mask: float = 0.2
    local_views: ClassVar[int] = 0
    """There are no local crops of clips."""

    def __post_init__(self) -> None:
        for name in ("mixup", "time_mask", "frequency_mask"):
            self._check(name, 0 <= getattr(self, name) < 1, "a share in [0, 1)")
        for name in ("time_scale", "frequency_scale"):
            low, high = getattr(self, name)
            self._check(name, 0.1 <= low <= high <= 4, "low/high with 0.1 <= low <= high <= 4")
        for name in ("fader", "noise"):
            self._check(name, 0 <= getattr(self, name) <= 40, "a number of dB from 0 to 40")

    @property
    def words(self) -> str:
        """The settings in a few words, for notes."""
        (slow, long), (low, high) = self.time_scale, self.frequency_scale
        return (
            f"mix-up {self.mixup:g}, crops of {100 * slow:g} to {100 * long:g} % of the time and "
            f"{100 * low:g} to {100 * high:g} % of the bands, fader {self.fader:g} dB, noise "
            f"{self.noise:g} dB, masks of up to {100 * self.time_mask:g} % of the time and "
            f"{100 * self.frequency_mask:g} % of the bands"
        )


def views_for_clips(text: str) -> AudioViews:
    """The views that a setting asks for: `auto`, `published` (the same), and changes to them.

    Raises:
        UserError: the text has another form, or a value is out of its range.
    """
    _, changes = parsed(text, NAMES, AudioViews())
    return AudioViews(**changes)


ONLY_OF_CLIPS = tuple(each.name for each in fields(AudioViews))
"""The settings of these views; images have none of them."""

"""The domains, kinds of data that bases are pretrained on, with their words in messages."""

from __future__ import annotations

from dataclasses import dataclass

AUTO, IMAGE, AUDIO, TEXT = "auto", "image", "audio", "text"


@dataclass(frozen=True)
class Words:
    """What a domain calls its data, in messages and reports.

    Attributes:
        sample: one of its samples, of which a data set holds many.
        raw: the baseline without learning.
        normalized: what is normalised with mean and std.
        nothing: of a sample that shows nothing, what it does, in the singular and in the plural;
            None where no sample shows nothing.
        point: of what an input has many side by side; distances in it are counted in them.
    """

    sample: str
    raw: str
    normalized: str
    nothing: tuple[str, str] | None
    point: str = "pixel"

    @property
    def samples(self) -> str:
        return f"{self.sample}s"

    def say(self, text: str) -> str:
        """A text in which {sample}, {samples}, {Samples} and {points} stand for these words.

        For texts of this package alone: names that a user gave may hold braces of their own.
        """
        return text.format(
            sample=self.sample,
            samples=self.samples,
            Samples=self.samples.capitalize(),
            points=f"{self.point}s",
        )


_ONE_COLOUR = "nothing (one colour, within 8 of 255 levels)"
WORDS = {
    IMAGE: Words("image", "raw pixels", "images", (f"shows {_ONE_COLOUR}", f"show {_ONE_COLOUR}")),
    AUDIO: Words(
        "clip", "raw log-mel", "log-mel maps", ("is silent", "are silent"), point="time step"
    ),
    TEXT: Words("text", "TF-IDF", "texts", None, point="token"),
}
"""The words of each domain."""


def words_of(domain: str) -> Words:
    """The words of a domain; those of images before it is known."""
    return WORDS.get(domain, WORDS[IMAGE])

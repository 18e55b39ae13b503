"""`TextViews`: how the random views of training texts are drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from headsearch.config.view_text import AUTO, PUBLISHED, ViewsBase, parsed

NAMES = (AUTO, PUBLISHED)
NOISE_LEVELS = 256
"""The share `dropout` is passed on to the base in parts of these."""


@dataclass(frozen=True)
class TextViews(ViewsBase):
    """The augmentations of the tokens of each text, in the order in which they are applied.

    Attributes:
        span: smallest and largest length of the part of a text that is kept, as a share.
        deletion: the probability that a token of that part is deleted. One at least is kept.
        dropout: the share of the values of each token's embedding that is set to 0, as in SimCSE
            (Gao et al. 2021, arXiv 2104.08821), which drops in every layer.

    Raises:
        UserError: a value is out of its range.
    """

    span: tuple[float, float] = (0.7, 1.0)
    deletion: float = 0.1
    dropout: float = 0.1
    local_views: ClassVar[int] = 0
    """There are no local crops of texts."""

    def __post_init__(self) -> None:
        short, long = self.span
        self._check("span", 0.05 <= short <= long <= 1, "low/high with 0.05 <= low <= high <= 1")
        for name in ("deletion", "dropout"):
            self._check(name, 0 <= getattr(self, name) <= 0.9, "a share from 0 to 0.9")

    @property
    def words(self) -> str:
        """The settings in a few words, for notes."""
        short, long = self.span
        return (
            f"parts of {100 * short:g} to {100 * long:g} % of a text, {100 * self.deletion:g} % of "
            f"tokens deleted, {100 * self.dropout:g} % of the values of an embedding set to 0"
        )


def views_for_texts(text: str) -> TextViews:
    """The views that a setting asks for: `auto`, `published` (SimCSE's), and changes to them.

    Raises:
        UserError: the text has another form, or a value is out of its range.
    """
    name, changes = parsed(text, NAMES, TextViews())
    simcse = {"span": (1.0, 1.0), "deletion": 0.0} if name == PUBLISHED else {}
    return TextViews(**{**simcse, **changes})


ONLY_OF_TEXTS = tuple(each.name for each in fields(TextViews))
"""The settings of these views; images and clips have none of them."""

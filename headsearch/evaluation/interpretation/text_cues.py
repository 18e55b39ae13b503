"""Texts with one cue removed: the order of their words.

Dimensions: B texts of one length, L tokens. Texts are uint8 (B, 3, 1, L), in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

PARTS = 4
"""Parts of a text that are shuffled."""


def reversed_tokens(texts: Tensor) -> Tensor:
    """The tokens from the last to the first."""
    return texts.flip(3)


def shuffled_tokens(texts: Tensor) -> Tensor:
    """The tokens in random order, the same for every text: a bag of words."""
    order = torch.randperm(texts.shape[3], generator=torch.Generator().manual_seed(0))
    return texts[..., order.to(texts.device)]


def shuffled_parts(texts: Tensor) -> Tensor:
    """Four parts of a text in reverse order: words with their neighbours, without their place."""
    return torch.cat(list(reversed(texts.tensor_split(PARTS, dim=3))), dim=3)


TEXT_CUES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "reversed": reversed_tokens,
    "shuffled": shuffled_tokens,
    "shuffled parts": shuffled_parts,
}
"""What is done to the texts by the name of the condition."""

"""Random views of texts on the training device: see `TextViews`.

Nothing here waits for the device. Shapes: B texts of a batch, N views of all texts (count × B), L
tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headsearch.config.text_views import NOISE_LEVELS, TextViews
from headsearch.data.text.tokens import unpacked

_DRAWS = ("length", "start")


def make_text_views(
    texts_B31L: Tensor,
    generator: torch.Generator | None,
    settings: TextViews,
    count: int,
    part: tuple[int, int],
) -> Tensor:
    """Draws `count` random views of every text.

    Args:
        texts_B31L: (B, 3, 1, L) uint8; see `tokens.py`.
        generator: a generator on the texts' device; None only on `meta`.
        settings: the augmentations.
        count: the number of views of each text.
        part: (p, n) if the texts are the p-th of n equal parts of a batch. They get the same random
            numbers as in a call with the whole batch.

    Returns:
        (count, B, 2, L) int64: token ids, -1 behind the end of a text; and the noise of each token,
        from which the base draws the values of its embedding that are dropped
        (`models/bases/text_base.py`).
    """
    ids_BL = unpacked(texts_B31L)
    batch, length = ids_BL.shape
    index, parts = part

    def drawn(*sizes: int) -> Tensor:
        shape = (count, parts, batch, *sizes)
        draws = torch.rand(shape, generator=generator, device=ids_BL.device)
        return draws[:, index].flatten(0, 1)

    of_text, of_token, seeds = drawn(len(_DRAWS)), drawn(length), drawn(length)
    ids_NL = ids_BL.repeat(count, 1)
    share_N, start_N = of_text.unbind(1)
    kept_NL = _span(ids_NL >= 0, share_N, start_N, settings.span) & (of_token >= settings.deletion)
    # The token with the largest number stays, so that no text becomes empty.
    last_NL = of_token == torch.where(ids_NL >= 0, of_token, -1.0).amax(dim=1, keepdim=True)
    kept_NL |= last_NL & (ids_NL >= 0) & ~kept_NL.any(dim=1, keepdim=True)
    order_NL = (~kept_NL).long().argsort(dim=1, stable=True)
    ids_NL = torch.where(kept_NL, ids_NL, -1).gather(1, order_NL)
    level = round(settings.dropout * NOISE_LEVELS)
    noise_NL = (seeds * 2**24).long() * NOISE_LEVELS + level if level else torch.zeros_like(ids_NL)
    return torch.stack([ids_NL, noise_NL], dim=1).view(count, batch, 2, length)


def _span(valid_NL: Tensor, share_N: Tensor, start_N: Tensor, span: tuple[float, float]) -> Tensor:
    """The tokens of a part of each text, of a random length and place."""
    tokens_N = valid_NL.sum(dim=1)
    kept_N = (tokens_N * (span[0] + (span[1] - span[0]) * share_N)).ceil().clamp(min=1)
    first_N = (start_N * (tokens_N - kept_N + 1)).floor()
    place_L = torch.arange(valid_NL.shape[1], device=valid_NL.device)
    return valid_NL & (place_L >= first_N[:, None]) & (place_L < (first_N + kept_N)[:, None])

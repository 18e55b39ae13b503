"""Random numbers and spans of the views of clips, of log-mel maps and of waveforms.

All are drawn on the device of the clips, separately for each clip and view, and nothing waits for
them. Suffixes: B clips of a batch, N views of all clips (count × B), C channels, H × W their shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def uniform(
    clips: Tensor,
    names: Sequence[str],
    generator: torch.Generator | None,
    count: int,
    part: tuple[int, int],
) -> dict[str, Tensor]:
    """The uniform numbers (N,) of the views of a part of a batch, by name.

    Args:
        clips: the clips, whose number and device count.
        names: of the numbers.
        generator: a generator on that device; None only on `meta`.
        count: the number of views of each clip.
        part: (p, n) if the clips are the p-th of n equal parts of a batch.
    """
    index, parts = part
    draws = torch.rand(
        (len(names), count, parts, len(clips)), generator=generator, device=clips.device
    )
    return dict(zip(names, draws[:, :, index].flatten(1).unbind(0), strict=True))


def gaussian(
    clips_BCHW: Tensor, generator: torch.Generator | None, count: int, part: tuple[int, int]
) -> Tensor:
    """Gaussian noise (N, C, H, W) for the views of a part of a batch."""
    index, parts = part
    shape = (count, parts, *clips_BCHW.shape)
    noise = torch.randn(shape, generator=generator, device=clips_BCHW.device)
    return noise[:, index].flatten(0, 1)


def shuffled(clips_BCHW: Tensor, generator: torch.Generator | None, count: int) -> Tensor:
    """Another clip of the batch for each view, (N, C, H, W)."""
    scores = torch.rand((count, len(clips_BCHW)), generator=generator, device=clips_BCHW.device)
    return clips_BCHW[scores.argsort(dim=1).flatten()]


def span(share_N: Tensor, start_N: Tensor, size: int) -> Tensor:
    """Which of `size` cells are hidden, (N, size) bool: a span of this share, rounded to cells.

    Args:
        share_N: the length of the span as a share.
        start_N: uniform numbers, where it starts among the possible places.
        size: the number of cells.
    """
    length_N1 = (share_N * size).round()[:, None]
    first_N1 = (start_N[:, None] * (size - length_N1 + 1)).floor()
    cell = torch.arange(size, device=share_N.device)
    return (cell >= first_N1) & (cell < first_N1 + length_N1)


def each(value_N: Tensor) -> Tensor:
    """A number for each view, (N, 1, 1, 1)."""
    return value_N.view(-1, 1, 1, 1)

"""Which spatial frequencies a token map holds (Park & Kim 2022, arXiv 2202.06709, figure 2).

Dimensions: B images, D width, H × W the grid, F frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_amplitudes(map_BDHW: Tensor) -> Tensor:
    """Mean log amplitude at the diagonal's frequencies 0 … π, less that at 0: (F,) float64.

    As published: the 2D Fourier transform of every channel, the mean of log |amplitude| over images
    and channels, and of that the diagonal from the constant (0, 0) to the highest frequency (π, π);
    the last value is what the paper calls Δ log amplitude at 1.0π. In natural logarithms. Low-pass
    maps have lower values. F = min(H, W) // 2 + 1. A map of one row or
    column, as of a clip, has the frequencies along it: F = max(H, W) // 2 + 1. NaN if the map has
    one place alone.
    """
    height, width = map_BDHW.shape[-2:]
    side = max(height, width) if 1 in (height, width) else min(height, width)
    count = side // 2 + 1
    if count < 2:
        return torch.full((count,), torch.nan, dtype=torch.float64)
    amplitude_BDHW: Tensor = torch.fft.fft2(map_BDHW.double()).abs()
    # A channel that is constant over an image has amplitudes of rounding errors: bounded below.
    mean_HW = amplitude_BDHW.clamp_min(1e-9).log().mean(dim=(0, 1))
    steps = torch.arange(count)
    diagonal_F = mean_HW[steps * (height // 2) // (count - 1), steps * (width // 2) // (count - 1)]
    return diagonal_F - diagonal_F[0]

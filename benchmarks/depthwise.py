"""Compares depth-wise convolutions on small maps with matrix products, one matrix a channel.

    python benchmarks/depthwise.py

Prints the milliseconds of a forward and backward pass of both (medians of alternating repeats) and
their ratio, on one CPU thread. The column `covers` tells where headsearch uses matrices: where the
kernel has at least as many taps as the map has positions (`headsearch/models/heads/small_map.py`).
"""

from __future__ import annotations

import copy
import statistics
import time

import torch
from torch import Tensor, nn

from headsearch.models.heads.small_map import DepthwiseOnSmallMap, _places

REPEATS = 15


def milliseconds(conv: nn.Module, maps: Tensor, autocast: bool) -> float:
    """Milliseconds of a forward and backward pass on maps (B, C, H, W)."""
    inputs = maps.clone().requires_grad_()
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = conv(inputs)
    torch.autograd.grad(output, [inputs, *conv.parameters()], torch.ones_like(output))
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    torch.set_num_threads(1)
    print("images width  map kernel covers precision  convolution  matrices  ratio")
    for images, width, side in ((256, 96, 4), (128, 384, 4), (128, 384, 7), (32, 384, 14)):
        for kernel in (3, 5, 7):
            conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
            matrices = copy.deepcopy(conv)
            matrices.__class__ = DepthwiseOnSmallMap
            matrices.grid = torch.Size((side, side))
            matrices.register_buffer("places_KM", _places(conv, (side, side)))
            maps = torch.randn(images, width, side, side)
            for autocast in (False, True):
                times: tuple[list[float], list[float]] = ([], [])
                for _ in range(REPEATS + 3):
                    for taken, module in zip(times, (conv, matrices), strict=True):
                        taken.append(milliseconds(module, maps, autocast))
                # The first three repeats are a warm-up.
                plain, as_matrices = (statistics.median(taken[3:]) for taken in times)
                print(
                    f"{images:6} {width:5} {side:2}×{side:<2} {kernel:3}×{kernel}"
                    f" {'yes' if kernel**2 >= side**2 else 'no':>6}"
                    f" {'bf16' if autocast else 'float32':>9} {plain:12.1f} {as_matrices:9.1f}"
                    f" {plain / as_matrices:6.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""What a head takes by itself, timed when it enters a search."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from headsearch.device import mixed_precision, synchronize

ALONE_TIMES, ALONE_S = 3, 0.1
"""How often, and for how many seconds, a head's forward and backward is timed when it enters."""


def head_step_ms(build: Callable[[], nn.Module], features_BDHW: Tensor, *, autocast: bool) -> float:
    """What one forward and backward of a head on given features takes, in milliseconds.

    On a head of its own, warmed up on some of the images: a head in training is not touched. The
    least of `ALONE_TIMES` passes, or of fewer once they have taken `ALONE_S` together: a long one
    wants no repeat, and a search does this for every head before its first step.
    """
    device = features_BDHW.device
    with torch.random.fork_rng(devices=[]):
        head = build().to(device)
    weights = list(head.parameters())

    def seconds(inputs: Tensor) -> float:
        inputs = inputs.detach().requires_grad_()
        synchronize(device)
        started = time.perf_counter()
        with mixed_precision(device, autocast):
            output = head(inputs)
        torch.autograd.grad(output.float().mean(), [inputs, *weights], allow_unused=True)
        synchronize(device)
        return time.perf_counter() - started

    seconds(features_BDHW[: max(1, len(features_BDHW) // 8)])
    times: list[float] = []
    while len(times) < ALONE_TIMES and sum(times) < ALONE_S:
        times.append(seconds(features_BDHW))
    return 1000 * min(times)

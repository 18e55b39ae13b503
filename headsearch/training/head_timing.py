"""Measures the time of one forward and backward pass of a single head, when it enters a search."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from headsearch.device import mixed_precision, synchronize

ALONE_TIMES, ALONE_S = 3, 0.1
"""Timing of a head stops after this many passes, or after this many seconds, whichever is first."""


def head_step_ms(build: Callable[[], nn.Module], features_BDHW: Tensor, *, autocast: bool) -> float:
    """The time of one forward and backward pass of a head, in milliseconds.

    The head is built for the measurement, so a head in training is not touched, and is warmed up on
    an eighth of the images. The result is the shortest of `ALONE_TIMES` passes, or of fewer once
    they have taken `ALONE_S` seconds together: a search times every head before its first step, and
    a long pass needs no repetition.

    Args:
        build: makes the head, a module (B, D, H, W) → (B, D, H, W).
        features_BDHW: the input.
        autocast: whether matrix products run in bfloat16.
    """
    device = features_BDHW.device
    # The random numbers of the run must not depend on whether a head is timed.
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

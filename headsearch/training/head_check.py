"""Checks that a head from a user's own family can train beside others, before it is attached."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from headsearch.device import mixed_precision
from headsearch.models.network import HeadFailedError, failing_as
from headsearch.models.user_code import without_exit
from headsearch.text import with_article

IMAGES = 4
"""The number of images that a head is tried on."""


def check_head(
    name: str, build: Callable[[], nn.Module], features_BDHW: Tensor, *, autocast: bool
) -> None:
    """Builds a head and runs one forward and backward pass; the head is then dropped.

    Args:
        name: the candidate.
        build: makes the head, a module (B, D, H, W) → (B, D, H, W).
        features_BDHW: the input.
        autocast: whether matrix products run in bfloat16.

    Raises:
        HeadFailedError: the head raises an error, changes its input in place, cannot be copied for
            the teacher, or its output has another shape or type, or takes no gradient.
    """
    device = features_BDHW.device
    source = features_BDHW.detach().requires_grad_()
    inputs = source * 1  # no leaf: torch itself refuses to change a leaf in place
    with torch.random.fork_rng(devices=[]), failing_as(name, inputs), without_exit():
        head = copy.deepcopy(build()).to(device)
        with mixed_precision(device, autocast):
            output = head(inputs)
    fault = _fault(output, inputs, autocast=autocast)
    if fault:
        raise HeadFailedError(name, fault)
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    with failing_as(name), without_exit():
        torch.autograd.grad(output.float().mean(), [source, *weights], allow_unused=True)


def _fault(output: object, inputs: Tensor, *, autocast: bool) -> str:
    """What is wrong with the output of a head; empty if nothing is."""
    if not isinstance(output, Tensor):
        return f"its output is {with_article(type(output).__name__)}, not a tensor"
    if output.shape != inputs.shape:
        return f"its output has shape {tuple(output.shape)}, its input {tuple(inputs.shape)}"
    if output.dtype != inputs.dtype and not (autocast and output.dtype == torch.bfloat16):
        own, other = (str(t.dtype).removeprefix("torch.") for t in (output, inputs))
        return f"its output is {own}, its input {other}"
    if not output.requires_grad:
        return "its output takes no gradient: it is detached"
    return ""

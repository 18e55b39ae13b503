"""What projections are made of, and the precision that they are compared in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def upcast(x: Tensor) -> Tensor:
    """At least float32: softmax, norms and means over a batch lose too much in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mlp(widths: list[int], *, norm: bool, last_norm: bool = False) -> nn.Sequential:
    """A projector: linear layers of these widths, between them batch norm and ReLU, or GELU."""
    return nn.Sequential(*_layers(widths, norm=norm, last_norm=last_norm))


def _layers(widths: list[int], *, norm: bool, last_norm: bool) -> Iterator[nn.Module]:
    steps = list(itertools.pairwise(widths))
    for index, (width, following) in enumerate(steps):
        last = index == len(steps) - 1
        yield nn.Linear(width, following, bias=not norm)
        if last:
            if last_norm:
                yield nn.BatchNorm1d(following, affine=False)
        elif norm:
            yield nn.BatchNorm1d(following)
            yield nn.ReLU(inplace=True)
        else:
            yield nn.GELU()

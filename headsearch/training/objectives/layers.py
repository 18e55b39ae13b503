"""Building blocks of projectors (MLPs with batch norm or GELU), and upcasting before a loss."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def upcast(x: Tensor) -> Tensor:
    """Casts to float32; wider types stay.

    Softmax, norms and batch means lose too much in bfloat16.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mlp(widths: list[int], *, norm: bool, last_norm: bool = False) -> nn.Sequential:
    """A projector: linear layers with an activation between them.

    Args:
        widths: the input width, then the output width of each linear layer.
        norm: True puts batch norm and ReLU between the layers, which then have no bias; False
            puts GELU.
        last_norm: whether batch norm without affine parameters follows the last layer.
    """
    return nn.Sequential(*_layers(widths, norm=norm, last_norm=last_norm))


def _layers(widths: list[int], *, norm: bool, last_norm: bool) -> Iterator[nn.Module]:
    pairs = list(itertools.pairwise(widths))
    for index, (width_in, width_out) in enumerate(pairs):
        last = index == len(pairs) - 1
        # A bias before a batch norm has no effect, since the norm subtracts it.
        yield nn.Linear(width_in, width_out, bias=not norm)
        if last:
            if last_norm:
                yield nn.BatchNorm1d(width_out, affine=False)
        elif norm:
            yield nn.BatchNorm1d(width_out)
            yield nn.ReLU(inplace=True)
        else:
            yield nn.GELU()

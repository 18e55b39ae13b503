"""Batch norm over the images of all processes, on any device and in any module."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from headsearch.torchrun import count
from headsearch.training.distributed import (
    mean_over_processes,
)


def statistics_over_all() -> AbstractContextManager[object]:
    """Within it, batch norms in training take their statistics over the images of all ranks."""
    return nullcontext() if count() == 1 else BatchNormOverRanks()


class BatchNormOverRanks(TorchFunctionMode):
    """Stands in for `batch_norm` in training, whichever module calls it.

    torch's SyncBatchNorm does the same on GPUs alone, and for its own modules alone: timm's layers
    and a user's call the function.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` over the images of all ranks, which have as many each: (b, C, …).

    The variance is taken about the mean, in two messages: from sums of squares it would lose what
    the mean exceeds the deviation by.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    over = [dim for dim in range(x.ndim) if dim != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    mean_C = mean_over_processes(x.mean(over))
    centred = x - mean_C.view(shape)
    variance_C = mean_over_processes(centred.square().mean(over))
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            samples = x.numel() // x.shape[1] * count()
            unbiased_C = variance_C * (samples / (samples - 1))
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased_C.to(running_var.dtype), momentum)
    normed = centred * (variance_C + eps).rsqrt().view(shape)
    if weight is not None:
        normed = normed * weight.view(shape)
    if bias is not None:
        normed = normed + bias.view(shape)
    return normed.to(input.dtype)

"""Synchronised batch norm: statistics over the images of all ranks, on any device and module.

A rank is one process of a `torchrun` job (see `distributed.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from headsearch.models.heads.padding import batch_norm_of_valid
from headsearch.torchrun import count
from headsearch.training.distributed import mean_over_processes


def statistics_over_all() -> AbstractContextManager[object]:
    """A context in which batch norms in training mode use statistics over all ranks.

    In a single process it does nothing.
    """
    return nullcontext() if count() == 1 else BatchNormOverRanks()


class BatchNormOverRanks(TorchFunctionMode):
    """A context that replaces `torch.nn.functional.batch_norm`, whichever module calls it.

    That of maps with padding, `batch_norm_of_valid`, takes its sums over all ranks, so that each
    place with data counts once, however many of them a rank has.

    PyTorch's SyncBatchNorm works only on GPUs and only for its own modules, while timm's layers and
    user-defined ones call the function.
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
        if func is batch_norm_of_valid:
            norm, features, valid, _ = args
            return batch_norm_of_valid(norm, features, valid, _sum_over_ranks)
        return func(*args, **(kwargs or {}))


def _sum_over_ranks(local: Tensor) -> Tensor:
    return mean_over_processes(local) * count()


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
    """`F.batch_norm` with statistics over the images of all ranks.

    Every rank must have the same number of images. `input` is (b, C, …), and the arguments are
    those of `F.batch_norm`.

    The mean is reduced first, then the mean square of the centred input. A variance from the mean
    of squares would need one reduction only, but would lose precision where the mean is large
    relative to the deviation.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    all_but_channels = [dim for dim in range(x.ndim) if dim != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    mean_C = mean_over_processes(x.mean(all_but_channels))
    centred = x - mean_C.view(shape)
    variance_C = mean_over_processes(centred.square().mean(all_but_channels))
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            # As in PyTorch, the running variance is the unbiased one.
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

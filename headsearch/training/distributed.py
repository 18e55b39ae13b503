"""Collective communication between the processes that train one cohort under `torchrun`.

A *rank* is one process of the job, numbered from 0. Each rank trains on its own images of every
step. Weights, optimizer moments and centres are bitwise the same on all ranks, because they are
updated from sums over all ranks. In a single process the functions here return their argument and
cost nothing.

What a step computes over its images is computed over those of all ranks, so that losses equal those
of one process with the same images, up to rounding:

- gradients, and losses that are means over images, are averaged (`average_over_processes`);
- embeddings that a loss compares with one another are gathered (`gather_crops`);
- batch norm (`BatchNormOverRanks`) and centres (`mean_over_processes`) take their statistics over
  all ranks.

Gradients follow one convention: the gradient of a step is the mean over ranks of the gradients of
their losses. The gradient of a gathered or averaged tensor is therefore the sum over ranks of
theirs.

Shapes: W ranks, B images of a step, b = B/W images of one rank, P embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from headsearch.errors import UserError
from headsearch.torchrun import count, first, rank

T = TypeVar("T")


def check_one_process(name: str) -> None:
    """Raises UserError in a job of several processes, each of which would do all the work.

    Args:
        name: a function of the Python API.
    """
    if count() > 1:
        raise UserError(f"headsearch.{name} works in one process only: leave torchrun out")


BUCKET = 2**24
"""Maximum number of elements reduced in one message: 64 MiB of float32."""


class RankLostError(UserError):
    """The connection to another process of the job is lost."""


_CONNECTION_ERRORS = ("closed by peer", "reset by peer", "Broken pipe", "refused", "imed out")
"""Parts of the messages of gloo's plain RuntimeError for a lost connection (the last is "timed out"
or "Timed out"). NCCL and the rendezvous raise `DistError`."""


@contextmanager
def _lost_rank_reported() -> Iterator[None]:
    """Turns the error of a lost connection into a `RankLostError` of one line."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(
            part in str(error) for part in _CONNECTION_ERRORS
        ):
            raise
        raise RankLostError(
            f"another of the {count()} processes of this job has ended; see its error above. Use "
            "headsearch resume to continue from the last snapshot, on any number of processes"
        ) from error


def join_processes(device: torch.device) -> None:
    """Connects this process to the others of the job.

    Does nothing in a single process, or if the processes are connected already.
    """
    if count() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _lost_rank_reported():
        dist.init_process_group(backend)


def leave_processes() -> None:
    """Disconnects this process from the others; called when it ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


# the part of one rank


def local_part(items: Sequence[T]) -> Sequence[T]:
    """This rank's part of a sequence; the lengths of the parts differ by at most 1."""
    return items[rank() :: count()]


def local_images(all_images: Tensor) -> Tensor:
    """This rank's rows (b, …) of a tensor over all images of a step (B, …)."""
    return all_images.chunk(count())[rank()]


def local_crops(all_crops: Tensor) -> Tensor:
    """This rank's rows (2b, …) of a tensor over all crops (2B, …).

    Both hold the first crops of their images, then the second crops.
    """
    if count() == 1:
        return all_crops
    return all_crops.view(2, count(), -1, *all_crops.shape[1:])[:, rank()].flatten(0, 1)


# gathering and averaging over ranks


def gather_crops(local: Tensor) -> Tensor:
    """Gathers the embeddings (2B, P) of all crops from each rank's own (2b, P).

    They are in the order in which one process would hold them: the first crops of all images, then
    the second crops. Differentiable if every rank computes the same loss from the result.
    """
    if count() == 1:
        return local
    gathered = cast(Tensor, _Gather.apply(local))
    # (W, 2, b, P): ranks come first in what was gathered, crops have to.
    return gathered.view(count(), 2, -1, *local.shape[1:]).transpose(0, 1).flatten(0, 2)


class _Gather(torch.autograd.Function):
    """Concatenates the rows of all ranks, in the order of ranks.

    Each rank computes the same loss from the result. So the sum over ranks of the gradients is W
    times this rank's own, and the backward pass needs no communication.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format)
                 for _ in range(count())]  # fmt: skip
        with _lost_rank_reported():
            dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(count())[rank()] * count()


class _Mean(torch.autograd.Function):
    """The mean over ranks.

    Each rank's loss depends on every rank's input with weight 1/W. The gradient is the sum of these
    contributions over ranks, which is the mean of the ranks' gradients.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return _averaged(local)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _averaged(gradients[0])


def _averaged(local: Tensor) -> Tensor:
    total = local.clone(memory_format=torch.contiguous_format)
    with _lost_rank_reported():
        dist.all_reduce(total)
    return total / count()


def mean_over_processes(local: Tensor) -> Tensor:
    """The elementwise mean over ranks; differentiable."""
    if count() == 1:
        return local
    return cast(Tensor, _Mean.apply(local))


@torch.no_grad()
def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors in place by their means over ranks.

    Tensors are concatenated into buckets, and the reductions of all buckets run concurrently.
    """
    if count() == 1:
        return
    reductions = []
    with _lost_rank_reported():
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            reductions.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for _, _, work in reductions:
            work.wait()
    for bucket, flat, _ in reductions:
        flat /= count()
        parts = flat.split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(
            list(bucket),
            [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)],
        )


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Groups tensors of the same dtype into buckets of at most `BUCKET` elements.

    A larger tensor gets a bucket of its own.
    """
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        for tensor in tensors:
            if tensor.dtype != dtype:
                continue
            if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


# Python objects and agreement between ranks


def broadcast_object(value: object) -> None:
    """Sends an object from the first process to the others, which call `receive_object`.

    Does nothing in the other processes, and in a single process.
    """
    if count() > 1 and first():
        with _lost_rank_reported():
            dist.broadcast_object_list([value], src=0)


def receive_object() -> Any:
    """Waits for the next object that the first process broadcasts, and returns it."""
    received = [None]
    with _lost_rank_reported():
        dist.broadcast_object_list(received, src=0)
    return received[0]


def agree_on_first(value: T) -> T:
    """Returns the first process's value in all processes."""
    if count() == 1:
        return value
    broadcast_object(value)
    agreed: T = value if first() else receive_object()
    return agreed


def any_process(flag: bool) -> bool:
    """Whether a flag is set in any of the processes."""
    if count() == 1:
        return flag
    flags = torch.tensor(int(flag))  # on the CPU, so that the GPU need not be synchronised
    with _lost_rank_reported():
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in the order of ranks."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    with _lost_rank_reported():
        dist.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor) -> None:
    """Fills a CPU tensor (W · r, …), of which rank k holds the rows k · r to (k + 1) · r."""
    if count() == 1:
        return
    parts = list(rows.chunk(count()))
    with _lost_rank_reported():
        dist.all_gather(parts, parts[rank()].clone())


def broadcast_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> Mapping[str, Tensor]:
    """Returns the first process's tensors in all processes, on the device of each.

    The `tensors` of the other processes are ignored.
    """
    if count() == 1:
        return tensors
    shapes = agree_on_first({name: (tuple(t.shape), t.dtype) for name, t in tensors.items()})
    received = {}
    for name, (shape, dtype) in shapes.items():
        if first():
            received[name] = tensors[name].detach().to(device).contiguous()
        else:
            received[name] = torch.empty(shape, dtype=dtype, device=device)
        with _lost_rank_reported():
            dist.broadcast(received[name], src=0)
    return received

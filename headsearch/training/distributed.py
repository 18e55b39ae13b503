"""Communication between the processes of a `torchrun` job that train one cohort together.

Each process trains on its own images of every step. Weights, optimizer moments and centres are the
same in all, bit for bit, since they are updated by sums over all. In a single process every
function here returns its argument and costs nothing.

What a step computes over its images is computed over those of all processes, so that the losses
equal those of one process with the same images, up to rounding:

- gradients, and losses that are means over images, are averaged (`average_over_processes`);
- embeddings that a loss compares with one another are gathered from all (`gather_crops`);
- batch norm takes its statistics over all (`BatchNormOverRanks`), and centres likewise
  (`mean_over_processes`).

Gradients follow one convention: that of the mean over ranks of what each rank differentiates. So
the gradient of what is gathered, or averaged, on the way is the sum over ranks of theirs.

Shapes: W ranks, B images of a step and b = B/W of one rank.
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

BUCKET = 2**24
"""Numbers that travel together, at most: 64 MiB of float32."""


class RankLostError(UserError):
    """Another process of the job has gone."""


_GONE = ("closed by peer", "reset by peer", "Broken pipe", "refused", "imed out")
"""What gloo says then; NCCL and the rendezvous have an error of their own."""


@contextmanager
def _together() -> Iterator[None]:
    """Within it, what a lost connection raises is told in one line."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(x in str(error) for x in _GONE):
            raise
        raise RankLostError(
            f"another of the {count()} processes of this job has gone; look above for what it "
            "says. What was kept stands: headsearch resume goes on from the last snapshot, on any "
            "number of processes"
        ) from error


def join_processes(device: torch.device) -> None:
    """Meets the other processes of the job; nothing in a process alone, or where it has."""
    if count() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _together():
        dist.init_process_group(backend)


def leave_processes() -> None:
    """Parts from the other processes, at the end of this one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


# what one rank has of what all have


def local_part(of_all: Sequence[T]) -> Sequence[T]:
    """This rank's part of a sequence, as even as can be."""
    return of_all[rank() :: count()]


def local_images(of_all: Tensor) -> Tensor:
    """This rank's rows (b, …) of something of all images of a step (B, …)."""
    return of_all.chunk(count())[rank()]


def local_crops(of_all: Tensor) -> Tensor:
    """This rank's part (2b, …) of something of all crops (2B, …): first crops, then second ones."""
    if count() == 1:
        return of_all
    return of_all.view(2, count(), -1, *of_all.shape[1:])[:, rank()].flatten(0, 1)


# what all have of what each has


def gather_crops(of_own: Tensor) -> Tensor:
    """Embeddings of all crops (2B, P) from those of this rank's (2b, P), in the order of images.

    Every rank then computes the same loss of them.
    """
    if count() == 1:
        return of_own
    gathered = cast(Tensor, _Gather.apply(of_own))
    return gathered.view(count(), 2, -1, *of_own.shape[1:]).transpose(0, 1).flatten(0, 2)


class _Gather(torch.autograd.Function):
    """Rows of all ranks, one after the other.

    Each rank computes the same loss from them, so the sum over ranks of its gradient is W times
    this rank's, and needs no further message.
    """

    @staticmethod
    def forward(ctx: Any, of_own: Tensor) -> Tensor:
        parts = [torch.empty_like(of_own, memory_format=torch.contiguous_format)
                 for _ in range(count())]  # fmt: skip
        with _together():
            dist.all_gather(parts, of_own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(count())[rank()] * count()


class _Mean(torch.autograd.Function):
    """The mean over ranks; the gradient is the mean of theirs, which is the sum of their shares."""

    @staticmethod
    def forward(ctx: Any, of_own: Tensor) -> Tensor:
        return _averaged(of_own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _averaged(gradients[0])


def _averaged(of_own: Tensor) -> Tensor:
    total = of_own.clone(memory_format=torch.contiguous_format)
    with _together():
        dist.all_reduce(total)
    return total / count()


def mean_over_processes(of_own: Tensor) -> Tensor:
    """The mean over ranks, elementwise."""
    if count() == 1:
        return of_own
    return cast(Tensor, _Mean.apply(of_own))


@torch.no_grad()
def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors by their means over ranks: in buckets, all of them under way at once."""
    if count() == 1:
        return
    sent = []
    with _together():
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for _, _, work in sent:
            work.wait()
    for bucket, flat, _ in sent:
        flat /= count()
        parts = flat.split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(
            list(bucket), [part.view(of.shape) for part, of in zip(parts, bucket, strict=True)]
        )


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type each, that come to at most `BUCKET` numbers unless one alone has more."""
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


# what one process tells the others


def broadcast_object(word: object) -> None:
    """Sends the first process's word to the others, which wait for it (`receive_object`).

    In the others, and in a process alone, it does nothing.
    """
    if count() > 1 and first():
        with _together():
            dist.broadcast_object_list([word], src=0)


def receive_object() -> Any:
    """The next word of the first process."""
    heard = [None]
    with _together():
        dist.broadcast_object_list(heard, src=0)
    return heard[0]


def agree_on_first(word: T) -> T:
    """The first process's word, in all of them."""
    if count() == 1:
        return word
    broadcast_object(word)
    heard: T = word if first() else receive_object()
    return heard


def any_process(flag: bool) -> bool:
    """Whether a flag is set in any of the processes. No device waits for it."""
    if count() == 1:
        return flag
    flags = torch.tensor(int(flag))
    with _together():
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def gather_objects(word: T) -> list[T]:
    """The words of all processes, in their order."""
    if count() == 1:
        return [word]
    words: list[Any] = [None] * count()
    with _together():
        dist.all_gather_object(words, word)
    return words


def broadcast_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> Mapping[str, Tensor]:
    """The first process's tensors, in all of them, on their device; the others' are not read."""
    if count() == 1:
        return tensors
    shapes = agree_on_first({name: (tuple(t.shape), t.dtype) for name, t in tensors.items()})
    found = {}
    for name, (shape, dtype) in shapes.items():
        if first():
            found[name] = tensors[name].detach().to(device).contiguous()
        else:
            found[name] = torch.empty(shape, dtype=dtype, device=device)
        with _together():
            dist.broadcast(found[name], src=0)
    return found

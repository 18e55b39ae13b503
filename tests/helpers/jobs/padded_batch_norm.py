"""A job of tests/training/test_distributed.py: heads with batch norm on sequences with padding.

    PYTHONPATH=tests torchrun --nproc-per-node 2 tests/helpers/jobs/padded_batch_norm.py OUT

Each process takes its own sequences. The first one writes, as safetensors in float64, the outputs of
each head, the gradients of its input and weights, and its running statistics.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from headsearch import torchrun
from headsearch.models.heads import build_head
from headsearch.models.heads.padding import run_head
from headsearch.training import distributed
from headsearch.training.sync_batchnorm import statistics_over_all

LENGTHS = torch.tensor([8, 7, 8, 6, 1, 2, 1, 3])
"""The first half of the sequences holds most of the data: a mean of two means would be wrong."""
HEADS = ("attention", "bottleneck", "convnext", "gru", "mbconv")
"""With batch norms of tokens and of maps."""


def gathered(local: Tensor) -> Tensor:
    """The rows of all processes."""
    return torch.cat(distributed.gather_objects(local.detach())).contiguous()


def steps(family: str) -> dict[str, Tensor]:
    """Two passes of a head, the second with other sequences."""
    torch.manual_seed(0)
    head = build_head(family, 12, (1, 8), {"depth": 2, "norm": "batch"}).double().train()
    found: dict[str, Tensor] = {}
    for number in range(2):
        maps, weights = torch.randn(2, len(LENGTHS), 12, 1, 8, dtype=torch.float64)
        valid = torch.arange(8) < LENGTHS.roll(number)[:, None]
        own = distributed.local_images(maps + 3).requires_grad_()
        with statistics_over_all():
            output = run_head(head, own, distributed.local_images(valid).unsqueeze(1))
        head.zero_grad()
        (output * distributed.local_images(weights)).flatten(1).sum(1).mean().backward()
        gradients = [parameter.grad for parameter in head.parameters()]
        distributed.average_over_processes(gradients)
        assert own.grad is not None
        # The gradient of a step is the mean over processes of theirs; an input has that of one.
        found |= {
            f"{number}/output": gathered(output),
            f"{number}/input gradient": gathered(own.grad) / torchrun.count(),
            **{f"{number}/{name} gradient": parameter.grad.clone()
               for name, parameter in head.named_parameters()},
            **{f"{number}/{name}": buffer.double().clone()
               for name, buffer in head.named_buffers()},
        }  # fmt: skip
    return found


def main(file: str) -> None:
    torch.set_num_threads(1)
    distributed.join_processes(torch.device("cpu"))
    out = {f"{family}/{name}": tensor for family in HEADS for name, tensor in steps(family).items()}
    if torchrun.first():
        save_file(out, Path(file))
    distributed.leave_processes()


if __name__ == "__main__":
    main(sys.argv[1])

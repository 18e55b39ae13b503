"""A job of tests/training/test_distributed.py: statistics over sequences with padding.

    PYTHONPATH=tests torchrun --nproc-per-node 2 tests/helpers/jobs/padding_in_ranks.py OUT

Each process takes its own sequences. The first one writes, as safetensors in float64, the outputs
of heads with batch norm, the gradients of their inputs and weights, their running statistics, and
iBOT's centre of patches.
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
from headsearch.training.objectives.dino import update_centre
from headsearch.training.objectives.ibot import _mean_over_patches as mean_over_patches
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


def centre() -> Tensor:
    """iBOT's centre of patches after one step."""
    torch.manual_seed(0)
    logits_BNP = torch.randn(len(LENGTHS), 8, 5, dtype=torch.float64) + LENGTHS[:, None, None]
    valid = distributed.local_images(torch.arange(8) < LENGTHS[:, None]).unsqueeze(1)
    centre_P = torch.zeros(5, dtype=torch.float64)
    update_centre(centre_P, mean_over_patches(distributed.local_images(logits_BNP), valid))
    return centre_P


def main(file: str) -> None:
    torch.set_num_threads(1)
    distributed.join_processes(torch.device("cpu"))
    out = {f"{family}/{name}": tensor for family in HEADS for name, tensor in steps(family).items()}
    out["centre"] = centre()
    if torchrun.first():
        save_file(out, Path(file))
    distributed.leave_processes()


if __name__ == "__main__":
    main(sys.argv[1])

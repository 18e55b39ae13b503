"""A job of tests/training/test_distributed.py: steps of every objective by all its processes.

    PYTHONPATH=tests torchrun --nproc-per-node 2 tests/helpers/jobs/steps_in_ranks.py OUT

Each process takes the crops of its own images. The first one writes, as safetensors, the losses of
each step and the weights, buffers and moments after the last, in float64.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from headsearch import torchrun
from headsearch.config.settings import Coupling
from headsearch.models.bases import BasePlan, plan_base
from headsearch.training import distributed
from headsearch.training.objectives import OBJECTIVES
from headsearch.training.schedules import StepPosition
from helpers.tiny_training import DYNAMIC_VIT, TINY_VIT, crops, local_crops, make_trainer

STEPS, IMAGES = 3, 8
RESNET = plan_base("test_resnet", 32)
"""With batch norms, in timm's own layers too."""
HEADS = ["attention", "convnext", "bottleneck"]


def take_steps(
    objective: str,
    coupling: Coupling,
    *,
    out: dict[str, Tensor],
    plan: BasePlan = TINY_VIT,
    local: bool = False,
) -> None:
    trainer = make_trainer(HEADS, coupling, objective, plan=plan)
    name = f"{objective} {coupling} {plan.timm_name}{' with local crops' if local else ''}"
    for step in range(STEPS):
        position = StepPosition(step, 2 * STEPS)
        own = crops(step, images=IMAGES, side=plan.image_size)
        smaller = of_this_rank(local_crops(step, images=IMAGES)) if local else None
        trainer.step(of_this_rank(own), position, smaller)
        for owner, stats in trainer.read().owners.items():
            out[f"{name}/loss of {owner or 'base'}/{step}"] = torch.tensor(stats.loss)
    for key, tensor in trainer.state().items():
        if key.partition(".")[0] in ("student", "teacher", "optimizer"):
            # a copy, for some share memory
            out[f"{name}/{key}"] = tensor.clone(memory_format=torch.contiguous_format)


def of_this_rank(views: Tensor) -> Tensor:
    """The crops (V, b, C, S, S) of this rank's images."""
    return torch.stack([distributed.local_images(each) for each in views])


def main(file: str, objectives: Sequence[str] = ()) -> None:
    """Takes the steps of some objectives; of all, and of more bases, where none are named."""
    torch.set_num_threads(1)
    distributed.join_processes(torch.device("cpu"))
    out: dict[str, Tensor] = {}
    for objective in objectives or OBJECTIVES:
        take_steps(objective, "joint", out=out)
    if not objectives:
        take_steps("simclr", "observe", out=out)
        for objective in ("dino", "simclr"):
            take_steps(objective, "joint", out=out, plan=RESNET)
        take_steps("ibot", "joint", out=out, plan=DYNAMIC_VIT, local=True)
    same = distributed.gather_objects({name: float(t.double().sum()) for name, t in out.items()})
    assert all(each == same[0] for each in same), "ranks have come apart"
    if torchrun.first():
        out["processes"] = torch.tensor(torchrun.count())
        save_file(out, Path(file))
    distributed.leave_processes()


if __name__ == "__main__":
    main(sys.argv[1])

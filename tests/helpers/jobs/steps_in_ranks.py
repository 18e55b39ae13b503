"""A job of tests/training/test_distributed.py: steps of every objective by all its processes.

    PYTHONPATH=tests torchrun --nproc-per-node 2 tests/helpers/jobs/steps_in_ranks.py OUT

Each process takes the crops of its own images. The first one writes, as safetensors, the losses of
each step and the weights, buffers and moments after the last, in float64.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from headsearch import torchrun
from headsearch.config.settings import Coupling
from headsearch.models.bases import plan_base
from headsearch.training import distributed
from headsearch.training.objectives import OBJECTIVES
from headsearch.training.schedules import StepPosition
from helpers.tiny_training import TINY_VIT, crops, make_trainer

STEPS, IMAGES = 3, 8
RESNET = plan_base("test_resnet", 32)
"""With batch norms, in timm's own layers too."""
HEADS = ["attention", "convnext", "bottleneck"]


def take_steps(objective: str, coupling: Coupling, *, resnet: bool, out: dict[str, Tensor]) -> None:
    plan = RESNET if resnet else TINY_VIT
    trainer = make_trainer(HEADS, coupling, objective, plan=plan)
    name = f"{objective} {coupling} {'resnet' if resnet else 'vit'}"
    for step in range(STEPS):
        position = StepPosition(step, 2 * STEPS)
        own = crops(step, images=IMAGES, side=plan.image_size)
        trainer.step(torch.stack([distributed.local_images(each) for each in own]), position)
        for owner, stats in trainer.read().owners.items():
            out[f"{name}/loss of {owner or 'base'}/{step}"] = torch.tensor(stats.loss)
    for key, tensor in trainer.state().items():
        if key.partition(".")[0] in ("student", "teacher", "optimizer"):
            # a copy, for some share memory
            out[f"{name}/{key}"] = tensor.clone(memory_format=torch.contiguous_format)


def main() -> None:
    torch.set_num_threads(1)
    distributed.join_processes(torch.device("cpu"))
    out: dict[str, Tensor] = {}
    for objective in OBJECTIVES:
        take_steps(objective, "joint", resnet=False, out=out)
    take_steps("simclr", "observe", resnet=False, out=out)
    for objective in ("dino", "simclr"):
        take_steps(objective, "joint", resnet=True, out=out)
    same = distributed.gather_objects({name: float(t.double().sum()) for name, t in out.items()})
    assert all(each == same[0] for each in same), "ranks have come apart"
    if torchrun.first():
        save_file(out, Path(sys.argv[1]))
    distributed.leave_processes()


if __name__ == "__main__":
    main()

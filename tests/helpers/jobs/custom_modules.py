"""A job that searches with a module of its own in each process; writes what each has come to.

PYTHONPATH=tests torchrun --nproc-per-node 2 tests/helpers/jobs/custom_modules.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import headsearch
from headsearch import torchrun
from headsearch.training.trainer import Trainer

trainers: list[Trainer] = []
before = Trainer.__init__


def noted(trainer: Trainer, *arguments: object, **named: object) -> None:
    before(trainer, *arguments, **named)  # type: ignore[arg-type]
    trainers.append(trainer)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.mix = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.mix(torch.relu(self.stem(images)))
        return out


Trainer.__init__ = noted  # type: ignore[method-assign]
torch.manual_seed(torchrun.rank())
headsearch.search(
    Own(), {"families": {"mixer": {"depth": 1}}, "controls": {"identity": None}},
    image_size=16, images=64, epochs=2, batch_size=32, rungs=2, eval_images=64, bank_images=64,
    device="cpu", precision="float32", threads=1, out=Path(sys.argv[1]) / "run", progress=False,
)  # fmt: skip
base = trainers[-1].student.base.state_dict()
save_file(
    {name: tensor.contiguous().clone() for name, tensor in base.items()},
    Path(sys.argv[1]) / f"{torchrun.rank()}.safetensors",
)

"""Tiny trainers: a ViT of width 32 on a 4×4 map, with heads of several families."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headsearch.config.input_shape import InputShape
from headsearch.config.settings import Coupling, resolve
from headsearch.models.bases import BasePlan, Stage
from headsearch.models.heads import build_head
from headsearch.models.network import Features, Network
from headsearch.seeding import seeded_weights
from headsearch.training.objectives import Losses, Objective, make_objective
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer

DIM, GRID, IMAGES = 32, (4, 4), 6
TINY_VIT = BasePlan(
    name="tiny",
    timm_name="vit_tiny_patch16_224",
    input_shape=InputShape.square(16),
    stages=(Stage(DIM, GRID), Stage(DIM, GRID)),
    own_family="attention",
    params_m=0.0,
    gflops=0.0,
    arguments={"img_size": 16, "patch_size": 4, "embed_dim": DIM, "depth": 2, "num_heads": 2},
)
DYNAMIC_VIT = replace(TINY_VIT, arguments={**TINY_VIT.arguments, "dynamic_img_size": True})
"""The same, which also takes smaller images: local crops."""
HEADS: dict[str, dict[str, Any]] = {
    "convnext": {"depth": 2, "kernel": 3, "first_shortcut": False},
    "attention": {"depth": 1},
    "poolformer": {"depth": 1},
    "mixer": {"depth": 1},
    "bottleneck": {"depth": 1},
}
SIZES = {
    "dino": {"hidden": 24, "bottleneck": 16, "prototypes": 48},
    "ibot": {"hidden": 24, "bottleneck": 16, "prototypes": 48},
    "mae": {},
}


def small_objective(name: str) -> Objective:
    return make_objective(name, **SIZES.get(name, {"hidden": 24, "width": 16}))


def make_trainer(
    names: list[str],
    coupling: Coupling = "joint",
    objective: str = "dino",
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
    plan: BasePlan = TINY_VIT,
    feature_index: int = 0,
    drop_path: float = 0.0,
    **settings: Any,
) -> Trainer:
    lr = {} if "recipe" in settings else {"lr": 1e-2}
    config = resolve({"seed": seed, **lr, **settings})
    chosen = small_objective(objective)
    with seeded_weights(seed, "base"):
        student = Network(plan.build(drop_path), chosen.base_projection(plan), coupling)
    trainer = Trainer(student.to(dtype), chosen, config, torch.device(device), autocast=False)
    dim, grid = plan.stages[feature_index]
    for name in names:
        trainer.attach(
            name, lambda name=name: build_head(name, dim, grid, HEADS[name]), dim, feature_index
        )
    trainer.student.to(dtype)
    trainer.teacher.network.to(dtype)
    return trainer


def crops(
    seed: int = 0, *, dtype: torch.dtype = torch.float64, images: int = IMAGES, side: int = 16
) -> Tensor:
    """Two crops of each image, (2, B, 3, S, S)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, images, 3, side, side, generator=generator).to(dtype)


def local_crops(
    seed: int = 0, *, dtype: torch.dtype = torch.float64, images: int = IMAGES
) -> Tensor:
    """Three local crops of each image, (3, B, 3, 8, 8)."""
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(3, images, 3, 8, 8, generator=generator).to(dtype)


def losses_of(trainer: Trainer, views: Tensor, position: StepPosition) -> Losses:
    return trainer.losses(views.flatten(0, 1), position)[1]


def features_of(trainer: Trainer, views: Tensor, position: StepPosition) -> Features:
    return trainer.losses(views.flatten(0, 1), position)[0]


def backward(trainer: Trainer, views: Tensor, position: StepPosition) -> dict[str, Tensor]:
    """The gradients of one step, before clipping and update, by parameter name."""
    return gradients_of(trainer, losses_of(trainer, views, position).total)


def gradients_of(trainer: Trainer, loss: Tensor) -> dict[str, Tensor]:
    trainer.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in trainer.student.named_parameters()
        if parameter.grad is not None
    }


def different_teacher(trainer: Trainer) -> None:
    """Moves the teacher away from the student, so that mixing them up shows."""
    generator = torch.Generator().manual_seed(5)
    for parameter in trainer.teacher.network.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += 0.05 * noise


def of_base(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: g for name, g in gradients.items() if not name.startswith("_heads.")}


def of_head(gradients: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name: g for name, g in gradients.items() if name.startswith(f"_heads.{head}.")}

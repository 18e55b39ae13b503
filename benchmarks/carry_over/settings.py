"""The seven settings of the carry-over benchmark (PROTOCOL.md): base, objective, data, length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROTOCOL = 1
"""The version of PROTOCOL.md. Every row says under which one it was measured."""
SPACE = Path(__file__).with_name("heads.yaml")
NONE = "none"
SEEDS = (0, 1)
RUNGS = 4

SMALL_VIT: dict[str, Any] = {
    "base": "vit_tiny_patch16_224",
    "base_args": "depth=6,embed_dim=96,num_heads=3,class_token=False,global_pool=avg",
    "patch_size": 8,
    "image_size": 32,
}
SMALL_RESNET: dict[str, Any] = {"base": "test_resnet", "image_size": 32}
CONTRASTIVE = {"objective": "simclr", "batch_size": 128}
MOMENTUM = {"objective": "mocov3", "batch_size": 64}
"""Objectives with an EMA teacher take twice as many steps of half the batch."""

COMMON: dict[str, Any] = {
    "images": 15_000,
    "epochs": 4,
    "lr": 1e-3,
    "eval_images": 10_000,
    "bank_images": 4000,
    "data_seed": 0,
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
}
"""What all settings share: 60,000 images seen, and 10,000 evaluation images in two halves."""


@dataclass(frozen=True)
class Setting:
    """A base, an objective and a data set.

    Attributes:
        name: unique.
        data: the folder with train.tar and val.tar.
        settings: arguments of `headsearch.search` that differ between settings.
    """

    name: str
    data: str
    settings: dict[str, Any]


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("vit-mocov3-cifar", "cifar10", {**SMALL_VIT, **MOMENTUM}),
        Setting("vit-dino-cifar", "cifar10", {**SMALL_VIT, **MOMENTUM, "objective": "dino"}),
        Setting("resnet-simclr-cifar", "cifar10", {**SMALL_RESNET, **CONTRASTIVE}),
        Setting(
            "swin-simclr-cifar",
            "cifar10",
            {
                "base": "swin_t",
                "base_args": "embed_dim=48,depths=(2,2),num_heads=(2,4)",
                "patch_size": 4,
                "image_size": 32,
                **CONTRASTIVE,
            },
        ),
        Setting(
            "vit64-simclr-tiny",
            "tiny_imagenet",
            {
                "base": "vit_tiny_patch16_224",
                "base_args": "depth=4,embed_dim=64,num_heads=2,class_token=False,global_pool=avg",
                "patch_size": 8,
                "image_size": 64,
                **CONTRASTIVE,
            },
        ),
        Setting("resnet-mocov3-tiny", "tiny_imagenet", {**SMALL_RESNET, **MOMENTUM}),
        Setting(
            "convnext-simclr-tiny",
            "tiny_imagenet",
            {"base": "test_convnext", "image_size": 32, **CONTRASTIVE},
        ),
    )
}

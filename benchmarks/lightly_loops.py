"""Training loops with lightly's modules, written as its documentation shows, for `peers.py`.

Each view has its own forward pass, and the optimizer has PyTorch's defaults. Projectors have
headsearch's sizes, but for what the library fixes: SimCLR's projector ends in a batch norm; that of
MoCo v3 and its predictor end in one with weights; DINO's last layer is PyTorch's weight norm.
lightly documents MoCo without the symmetric loss of version 3, which is written here with lightly's
parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import torch
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models.modules import DINOProjectionHead, MoCoProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform, MoCoV2Transform, SimCLRTransform
from PIL.Image import Image
from plain_loops import Setting
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class LightlyLoop:
    """An objective with lightly's modules.

    Args:
        backbone: a timm model without classifier.
        setting: the objective and its hyperparameters.
    """

    def __init__(self, backbone: nn.Module, setting: Setting) -> None:
        self.setting = setting
        dim, hidden, width = backbone.num_features, setting.hidden, setting.width
        self.loss: nn.Module
        self.predictor: nn.Module = nn.Identity()

        def projector() -> nn.Module:
            if setting.objective == "dino":
                return DINOProjectionHead(
                    dim, hidden, width, setting.prototypes, freeze_last_layer=-1
                )
            if setting.objective == "simclr":
                return SimCLRProjectionHead(dim, hidden, width, num_layers=3)
            return MoCoProjectionHead(dim, hidden, width, num_layers=3, batch_norm=True)

        self.backbone, self.head = backbone, projector()
        if setting.objective == "dino":
            self.loss = DINOLoss(setting.prototypes, teacher_temp=setting.temperature)
        elif setting.objective == "simclr":
            self.loss = NTXentLoss(temperature=0.1)
        else:
            self.loss = NTXentLoss(temperature=0.2)
            self.predictor = MoCoProjectionHead(width, hidden, width, batch_norm=True)
        self.student = nn.ModuleList([self.backbone, self.head, self.predictor])
        self.student.to(setting.device)
        self.loss.to(setting.device)
        if setting.has_teacher:
            self.teacher_backbone, self.teacher_head = copy.deepcopy(backbone), projector()
            self.teacher_backbone.to(setting.device)
            self.teacher_head.to(setting.device)
            self.teacher_head.load_state_dict(self.head.state_dict())
            deactivate_requires_grad(self.teacher_backbone)
            deactivate_requires_grad(self.teacher_head)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=setting.lr, weight_decay=setting.weight_decay
        )

    def step(self, crops: Iterable[Tensor]) -> None:
        """One update from two views of a batch, each (B, 3, S, S)."""
        setting = self.setting
        if setting.has_teacher:
            update_momentum(self.backbone, self.teacher_backbone, m=setting.momentum)
            update_momentum(self.head, self.teacher_head, m=setting.momentum)
        with setting.precision():
            loss = self._loss(crops)
        loss.backward()
        if isinstance(self.head, DINOProjectionHead):
            self.head.cancel_last_layer_gradients(current_epoch=0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _loss(self, crops: Iterable[Tensor]) -> Tensor:
        crops = [crop.to(self.setting.device, non_blocking=True) for crop in crops]
        students = [self.predictor(self.head(self.backbone(crop))) for crop in crops]
        if not self.setting.has_teacher:
            return self.loss(*students)
        teachers = [self.teacher_head(self.teacher_backbone(crop)) for crop in crops]
        if self.setting.objective == "dino":
            return self.loss(teachers, students)
        return (self.loss(students[0], teachers[1]) + self.loss(students[1], teachers[0])) / 2


class Pictures(Dataset[list[Tensor]]):
    """Views of images that are decoded already."""

    def __init__(self, images: list[Image], transform: Callable[[Image], list[Tensor]]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


def lightly_batches(
    images: list[Image], objective: str, batch_size: int, workers: int
) -> Iterator[list[Tensor]]:
    """Yields two views of a batch, each (B, 3, S, S), by lightly's transform for the objective."""
    size = images[0].width
    transform = {
        "dino": lambda: DINOTransform(global_crop_size=size, n_local_views=0),
        "simclr": lambda: SimCLRTransform(input_size=size),
        "mocov3": lambda: MoCoV2Transform(input_size=size),
    }[objective]()
    loader = DataLoader(
        Pictures(images, transform), batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    while True:
        yield from loader

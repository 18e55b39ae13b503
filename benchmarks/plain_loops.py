"""Training loops in plain PyTorch and timm, which `peers.py` compares with headsearch's step.

`PlainLoop` is the step as papers and documentation write it: one forward pass for each view, and
PyTorch's default optimizer and moving average. `TunedLoop` makes the same update as headsearch's
trainer without heads (`tests/training/test_plain_loops.py` compares them), optimized by hand.

Sources: DINO, Caron et al. 2021, arXiv 2104.14294, equations 1 to 4; SimCLR, Chen et al. 2020,
arXiv 2002.05709, equation 1; MoCo v3, Chen, Xie and He 2021, arXiv 2104.02057, algorithm 1.

Shapes: B images; crops are (2, B, 3, S, S); P is the width of the compared embeddings, Z that of
DINO's bottleneck.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.models.network import Network


@dataclass(frozen=True)
class Setting:
    """Objective and hyperparameters of a step, the same for all loops that are compared.

    Attributes:
        objective: dino, simclr or mocov3.
        hidden: width of the projector's hidden layers.
        width: width of the projector's output; for DINO, of its bottleneck.
        prototypes: number of DINO's prototypes.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        momentum: of the teacher's moving average.
        temperature: of DINO's teacher.
        clip_norm: the largest gradient norm of a tensor, in `TunedLoop`.
        autocast: whether matrix products run in bfloat16.
        device: where the loop runs.
    """

    objective: str
    hidden: int = 512
    width: int = 128
    prototypes: int = 1024
    lr: float = 5e-4
    weight_decay: float = 0.05
    momentum: float = 0.996
    temperature: float = 0.07
    clip_norm: float = 0.3
    autocast: bool = False
    device: str = "cpu"

    @property
    def has_teacher(self) -> bool:
        return self.objective != "simclr"

    def precision(self) -> AbstractContextManager[object]:
        if not self.autocast:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)


class Model(nn.Module):
    """A backbone with the objective's projector and predictor, in headsearch's sizes."""

    def __init__(self, backbone: nn.Module, setting: Setting) -> None:
        super().__init__()
        dim, hidden, width = backbone.num_features, setting.hidden, setting.width
        self.dino = setting.objective == "dino"
        self.backbone = backbone
        if self.dino:
            self.projector = nn.Sequential(
                nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
                nn.Linear(hidden, width),
            )  # fmt: skip
            self.prototypes_PZ = nn.Parameter(torch.randn(setting.prototypes, width))
        else:
            self.projector = _normed_mlp(dim, hidden, hidden, width)
        self.predictor: nn.Module = nn.Identity()
        if setting.objective == "mocov3":
            self.projector.append(nn.BatchNorm1d(width, affine=False))
            self.predictor = _normed_mlp(width, hidden, width)

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings (B, P) that the loss compares, before any predictor."""
        embedding = self.projector(self.backbone(images))
        if not self.dino:
            return embedding
        return F.normalize(upcast(embedding)) @ F.normalize(self.prototypes_PZ).T

    def load(self, network: Network) -> None:
        """Copies the weights of headsearch's base and its projection."""
        projection = network.projection
        self.backbone.load_state_dict(network.base.weights())
        self.projector.load_state_dict(projection.projector.state_dict())
        if self.dino:
            self.prototypes_PZ.data.copy_(projection.prototypes_PZ)
        if hasattr(projection, "predictor"):
            self.predictor.load_state_dict(projection.predictor.state_dict())


def _normed_mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        if layers:
            layers += [nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(width, following, bias=False))
    return nn.Sequential(*layers)


class Criterion(nn.Module):
    """The objective's loss between two views by the student and two by the teacher."""

    centre_P: Tensor

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.register_buffer("centre_P", torch.zeros(setting.prototypes))

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        if self.setting.objective == "simclr":
            return nt_xent(*students)
        if self.setting.objective == "mocov3":
            return (info_nce(students[0], teachers[1]) + info_nce(students[1], teachers[0])) / 2
        targets = [
            F.softmax((logits - self.centre_P) / self.setting.temperature, dim=-1)
            for logits in teachers
        ]
        self.centre_P.lerp_(torch.cat(list(teachers)).mean(dim=0), 0.1)
        return (
            F.cross_entropy(students[0] / 0.1, targets[1])
            + F.cross_entropy(students[1] / 0.1, targets[0])
        ) / 2


def upcast(x: Tensor) -> Tensor:
    """In float32, if it is bfloat16: losses are computed in full precision."""
    return x.float() if x.dtype == torch.bfloat16 else x


def nt_xent(first_BP: Tensor, second_BP: Tensor, temperature: float = 0.1) -> Tensor:
    """SimCLR's loss (equation 1) over all 2B crops."""
    unit_P = F.normalize(torch.cat([first_BP, second_BP]))
    logits = unit_P @ unit_P.T / temperature
    logits.fill_diagonal_(-torch.inf)
    batch = len(first_BP)
    return F.cross_entropy(logits, torch.arange(2 * batch, device=logits.device).roll(batch))


def info_nce(queries_BP: Tensor, keys_BP: Tensor, temperature: float = 0.2) -> Tensor:
    """MoCo v3's loss (`ctr` of algorithm 1): the key of its own image is a query's positive."""
    logits_BB = F.normalize(queries_BP) @ F.normalize(keys_BP).T / temperature
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return F.cross_entropy(logits_BB, own_B) * (2 * temperature)


class PlainLoop:
    """The step as papers and documentation write it.

    Args:
        backbone: a timm model without classifier.
        setting: the objective and its hyperparameters.
    """

    def __init__(self, backbone: nn.Module, setting: Setting) -> None:
        self.setting = setting
        self.student = Model(backbone, setting).to(setting.device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.criterion = Criterion(setting).to(setting.device)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=setting.lr, weight_decay=setting.weight_decay
        )

    def step(self, crops: Tensor) -> Tensor:
        """One update from crops (2, B, 3, S, S); returns the loss before it."""
        setting, teachers = self.setting, []
        with setting.precision():
            if setting.has_teacher:
                with torch.no_grad():
                    teachers = [upcast(self.teacher(crop)) for crop in crops]
            students = [upcast(self.student.predictor(self.student(crop))) for crop in crops]
        loss = self.criterion(students, teachers)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if setting.has_teacher:
            with torch.no_grad():
                for average, weight in zip(
                    self.teacher.parameters(), self.student.parameters(), strict=True
                ):
                    average.mul_(setting.momentum).add_(weight, alpha=1 - setting.momentum)
        return loss.detach()


class TunedLoop:
    """The update of headsearch's trainer, by hand: one forward pass, fused AdamW, foreach kernels.

    Like the trainer, it clips the gradient of each tensor by itself, and applies no weight decay to
    tensors of one dimension.

    Args:
        backbone: a timm model without classifier.
        setting: the objective and its hyperparameters.
    """

    def __init__(self, backbone: nn.Module, setting: Setting) -> None:
        self.setting = setting
        self.student = Model(backbone, setting).to(setting.device)
        self.criterion = Criterion(setting).to(setting.device)
        self.start()

    def start(self) -> None:
        """Makes teacher and optimizer from the student's weights as they are now."""
        setting = self.setting
        self.parameters = list(self.student.parameters())
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.averaged = list(self.teacher.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters if p.ndim > 1]},
                {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=setting.lr,
            weight_decay=setting.weight_decay,
            fused=True,
        )

    def step(self, crops: Tensor) -> Tensor:
        """One update from crops (2, B, 3, S, S); returns the loss before it."""
        setting, images, teachers = self.setting, crops.flatten(0, 1), None
        with setting.precision():
            if setting.has_teacher:
                with torch.no_grad():
                    teachers = self.teacher(images)
            students = self.student.predictor(self.student(images))
        teacher_pair = upcast(teachers).chunk(2) if teachers is not None else ()
        loss = self.criterion(upcast(students).chunk(2), teacher_pair)
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        scales = (setting.clip_norm / (norms + 1e-6)).clamp(max=1)
        torch._foreach_mul_(gradients, list(scales.unbind()))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if setting.has_teacher:
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - setting.momentum)
        return loss.detach()

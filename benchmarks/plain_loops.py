"""Training loops in torch and timm alone, to measure headsearch's step against.

`PlainLoop` is the step as papers and documentation write it: a forward a view, optimizer and
moving average as torch gives them by default. `TunedLoop` makes the very update that headsearch's
trainer makes with no head attached (`tests/test_plain_loops.py` holds one against the other), with
all that is known to be fast written out by hand.

Sources: DINO, Caron et al. 2021, arXiv 2104.14294, equations 1 to 4; SimCLR, Chen et al. 2020,
arXiv 2002.05709, equation 1; MoCo v3, Chen, Xie and He 2021, arXiv 2104.02057, algorithm 1.

Shapes: B images, crops stand as (2, B, 3, S, S); P width of the compared embeddings.
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
    """What a step is made with, the same for all that are compared.

    Attributes:
        objective: dino, simclr or mocov3.
        hidden, width: of the projector; `width` is DINO's bottleneck.
        momentum: of the teacher.
        temperature: of DINO's teacher.
        autocast: whether matrix products run in bfloat16.
        device: where.
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
    """A backbone with what the objective puts on it; the shapes are those of headsearch."""

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
        """The embeddings that are compared, before any predictor."""
        embedding = self.projector(self.backbone(images))
        if not self.dino:
            return embedding
        return F.normalize(upcast(embedding)) @ F.normalize(self.prototypes_PZ).T

    def load(self, network: Network) -> None:
        """Takes the weights of headsearch's base and its projection."""
        theirs = network.projection
        self.backbone.load_state_dict(network.base.weights())
        self.projector.load_state_dict(theirs.projector.state_dict())
        if self.dino:
            self.prototypes_PZ.data.copy_(theirs.prototypes_PZ)
        if hasattr(theirs, "predictor"):
            self.predictor.load_state_dict(theirs.predictor.state_dict())


def _normed_mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        if layers:
            layers += [nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(width, following, bias=False))
    return nn.Sequential(*layers)


class Criterion(nn.Module):
    """The objective's loss between the student's two views and the teacher's."""

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
    return x.float() if x.dtype == torch.bfloat16 else x


def nt_xent(first_BP: Tensor, second_BP: Tensor, temperature: float = 0.1) -> Tensor:
    """SimCLR's equation 1, over all 2B crops."""
    unit_P = F.normalize(torch.cat([first_BP, second_BP]))
    logits = unit_P @ unit_P.T / temperature
    logits.fill_diagonal_(-torch.inf)
    batch = len(first_BP)
    return F.cross_entropy(logits, torch.arange(2 * batch, device=logits.device).roll(batch))


def info_nce(queries_BP: Tensor, keys_BP: Tensor, temperature: float = 0.2) -> Tensor:
    logits_BB = F.normalize(queries_BP) @ F.normalize(keys_BP).T / temperature
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return F.cross_entropy(logits_BB, own_B) * (2 * temperature)


class PlainLoop:
    """The step as documentation writes it."""

    def __init__(self, backbone: nn.Module, setting: Setting) -> None:
        self.setting = setting
        self.student = Model(backbone, setting).to(setting.device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.criterion = Criterion(setting).to(setting.device)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=setting.lr, weight_decay=setting.weight_decay
        )

    def step(self, crops: Tensor) -> Tensor:
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
                for mine, theirs in zip(
                    self.teacher.parameters(), self.student.parameters(), strict=True
                ):
                    mine.mul_(setting.momentum).add_(theirs, alpha=1 - setting.momentum)
        return loss.detach()


class TunedLoop:
    """The trainer's own update by hand: views in one forward, fused AdamW, foreach for the rest.

    As the trainer it clips the gradient of each tensor, and decays no tensor of one dimension.
    """

    def __init__(self, backbone: nn.Module, setting: Setting) -> None:
        self.setting = setting
        self.student = Model(backbone, setting).to(setting.device)
        self.criterion = Criterion(setting).to(setting.device)
        self.start()

    def start(self) -> None:
        """Makes teacher and optimizer anew, of the student's weights and in its precision."""
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

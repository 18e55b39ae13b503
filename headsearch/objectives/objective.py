"""What every objective shares: where the heterogeneous target enters, and how losses combine.

Two crops q ≠ v of each image; T is the teacher, S the student, ℓ the objective's own comparison of
a prediction with a target. With the head h alone (Li et al. 2025, arXiv 2310.05108, as DESIGN.md
states it, without the masked-patch term):

    L = ½ [ℓ(T_h(q), S_base(v)) + ℓ(T_h(q), S_h(v))]

With K heads in *joint* coupling, the losses of all heads are added, and the gradient is scaled by
1/K wherever it passes from a head, or from a term toward a head's target, into the base. So the
base follows the mean over heads of L, and each head its own L in full. In *observe* coupling, and
when no head is attached, the base learns from its own teacher, ℓ(T_base(q), S_base(v)), and each
head from ℓ(T_h(q), S_h(v)) on detached features.

Shapes: 2B crops (the B first ones, then the B second ones), D width.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from headsearch.machine import full_precision
from headsearch.model import AttachedHead, Features, Network
from headsearch.schedules import Moment
from headsearch.scores.rung import Prototypes


@dataclass(frozen=True)
class Losses:
    """The losses of a step: the base's, each head's own, and the one that is differentiated."""

    base: Tensor
    heads: dict[str, Tensor]
    total: Tensor


class Objective(ABC):
    """One self-supervised objective in its heterogeneous form.

    It is stateless: what moves (projectors, prototypes, centres) lives in the modules that it
    makes for a base and for a head, so that a head takes all that is its own along when it leaves.
    """

    clip_norm: float | None = None
    """The largest gradient norm of each parameter tensor; None does not clip."""
    has_prototypes: ClassVar[bool] = False

    @abstractmethod
    def base_projection(self, dim: int) -> nn.Module:
        """What the objective puts on the base's pooled features of width `dim`."""

    @abstractmethod
    def head_projection(self, dim: int) -> nn.Module:
        """What the objective gives to one head; nothing in it depends on the other heads."""

    @abstractmethod
    def targets(
        self, teacher: Network, student: Network, features: Features, moment: Moment
    ) -> dict[str | None, Tensor]:
        """The teacher's targets (2B, P) by head, the base's own under None. Runs without gradient.

        State that follows the teacher's outputs (a centre) is moved here, in the student's
        modules, after the targets were made with it as it was.
        """

    @abstractmethod
    def of_head(self, network: Network, head: AttachedHead, pooled_BD: Tensor) -> Tensor:
        """The student's prediction (2B, P) from a head's features."""

    @abstractmethod
    def of_base(self, network: Network, pooled_BD: Tensor) -> Tensor:
        """The student's embedding (2B, P) of the base's features, made once for all heads."""

    @abstractmethod
    def toward(self, network: Network, head: AttachedHead | None, embedding_BP: Tensor) -> Tensor:
        """The base's prediction (2B, P) of a head's target, or of its own where head is None."""

    @abstractmethod
    def compare(self, prediction_BP: Tensor, target_BP: Tensor) -> Tensor:
        """ℓ: the loss (a scalar) of predictions against the targets of the other crops.

        Both come in float32 or better, and products run in it.
        """

    def adjust_gradients(self, student: Network, moment: Moment) -> None:  # noqa: B027
        """Changes gradients between the backward and the update, where a recipe asks for it."""

    def prototypes_of(self, network: Network) -> Prototypes | None:
        """How the network sorts images into prototypes; None for objectives without any."""
        return None

    def losses(
        self,
        student: Network,
        seen: Features,
        targets: dict[str | None, Tensor],
    ) -> Losses:
        """The base's loss and each head's, from the student's features and the targets."""
        heads = student.heads
        follows_heads = student.coupling == "joint" and bool(heads)
        weight = 0.5 if follows_heads else 1.0
        of_heads = {
            name: weight
            * self._swapped(self.of_head(student, head, seen.pooled_BD(name)), targets[name])
            for name, head in heads.items()
        }
        embedding = self.of_base(student, seen.base.pooled_BD)
        if follows_heads:
            # Scaled where it leaves the base, not in the loss: what a head owns on the way keeps
            # its full gradient.
            shared = student.coupled(embedding)
            of_base = [
                weight * self._swapped(self.toward(student, head, shared), targets[name])
                for name, head in heads.items()
            ]
        else:
            of_base = [self._swapped(self.toward(student, None, embedding), targets[None])]
        return Losses(
            base=torch.stack(of_base).mean(),
            heads=of_heads,
            total=torch.stack([*of_base, *of_heads.values()]).sum(),
        )

    def _swapped(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """ℓ with each crop predicting the other, averaged over the two ways."""
        first, second = upcast(predictions).chunk(2)
        target_first, target_second = upcast(targets).chunk(2)
        with full_precision(predictions.device):
            one, other = self.compare(first, target_second), self.compare(second, target_first)
        return (one + other) / 2


def upcast(x: Tensor) -> Tensor:
    """At least float32: softmax, norms and means over a batch lose too much in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mlp(widths: list[int], *, norm: bool, last_norm: bool = False) -> nn.Sequential:
    """A projector: linear layers of these widths, between them batch norm and ReLU, or GELU."""
    return nn.Sequential(*_layers(widths, norm=norm, last_norm=last_norm))


def _layers(widths: list[int], *, norm: bool, last_norm: bool) -> Iterator[nn.Module]:
    steps = list(itertools.pairwise(widths))
    for index, (width, following) in enumerate(steps):
        last = index == len(steps) - 1
        yield nn.Linear(width, following, bias=not norm)
        if last:
            if last_norm:
                yield nn.BatchNorm1d(following, affine=False)
        elif norm:
            yield nn.BatchNorm1d(following)
            yield nn.ReLU(inplace=True)
        else:
            yield nn.GELU()

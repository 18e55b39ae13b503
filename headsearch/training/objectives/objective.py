"""What every objective shares: where the heterogeneous target enters, and how losses combine.

Two crops q ≠ v of each image; T is the teacher, S the student. An objective says what a base or a
head loses on its own, ℓ_base and ℓ_h; what the base loses toward a head's output, ℓ(T_h(q),
S_base(v)); and which part of its own loss the base keeps beside that, m_base (masked patches, in
objectives that mask). With the head h alone (Li et al. 2025, arXiv 2310.05108, as DESIGN.md states
it for the published objective, `ibot`):

    L = ½ [ℓ(T_h(q), S_base(v)) + ℓ_h] + m_base

With K heads in *joint* coupling, the losses of all heads are added, and the gradient is scaled by
1/K wherever it passes from a head, or from a term toward a head's target, into the base. So the
base follows the mean over heads of L, and each head its own L in full. In *observe* coupling, and
when no head is attached, the base learns from ℓ_base alone, and each head from ℓ_h on detached
features.

Shapes: 2B crops (the B first ones, then the B second ones), D width, H × W the last map's grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from headsearch.evaluation.scores import Prototypes
from headsearch.models.bases import BaseOutput, BasePlan
from headsearch.models.head_batches import HeadBatches
from headsearch.models.network import Features, Network
from headsearch.training.schedules import StepPosition


class Targets(NamedTuple):
    """What a step's predictions are compared with; carries no gradient."""

    of: dict[str | None, Tensor]
    """By head; the base's own under None."""
    patches: Tensor | None = None
    """Of masked patches, for objectives that have any."""


@dataclass(frozen=True)
class StepOutputs:
    """What the student made of a step's crops, and what that is compared with."""

    student: Network
    features: Features
    targets: Targets
    mask_BHW: Tensor | None = None
    """The patches that the student did not see."""
    shares: HeadBatches | None = None
    """The crops that each head sees, where those are not all: its features and its targets are of
    them alone, while the base's, and the mask, are of all."""

    def by(self, name: str, of_all: Tensor) -> Tensor:
        """Of something of all crops (2B, …), what the head `name` sees of it."""
        return of_all if self.shares is None else self.shares.of([name], of_all)[name]

    def by_heads(self, of_all: Tensor) -> dict[str, Tensor]:
        """Of something of all crops (2B, …), what each head sees of it."""
        names = list(self.student.heads)
        if self.shares is None:
            return dict.fromkeys(names, of_all)
        return self.shares.of(names, of_all)


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
    Nothing of one head depends on which others there are.
    """

    clip_norm: float | None = None
    """The largest gradient norm of each parameter tensor; None does not clip."""
    has_prototypes: ClassVar[bool] = False
    has_teacher: ClassVar[bool] = True
    """False: targets come from the student itself, without gradient, and the student is scored."""

    @abstractmethod
    def base_projection(self, plan: BasePlan) -> nn.Module:
        """What the objective puts on the base."""

    @abstractmethod
    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        """What the objective gives to one head, whose features have width `dim`.

        `of_base` is the base's own projection, for the shapes in it.
        """

    def mask(
        self, student: Network, crops: int, generator: torch.Generator | None
    ) -> Tensor | None:
        """The patches (2B, H, W) that the student must not see; None hides nothing.

        Args:
            student: its base's projection knows the grid.
            crops: 2B.
            generator: of the student's device; None only on `meta`.
        """
        return None

    @abstractmethod
    def targets(
        self,
        teacher: Network,
        student: Network,
        features: Features,
        crops_BCSS: Tensor,
        temperature: Tensor,
    ) -> Targets:
        """The targets, from the teacher's features of the whole crops. Runs without gradient.

        `temperature` is that of this step, ().

        State that follows the teacher's outputs (a centre) is moved here, in the student's
        modules, after the targets were made with it as it was. Without a teacher, the student
        stands in its place.
        """

    @abstractmethod
    def embedding_of_base(self, seen: StepOutputs) -> Tensor:
        """What the base's predictions are made from, once for all heads."""

    @abstractmethod
    def toward(self, seen: StepOutputs, name: str, embedding: Tensor) -> Tensor:
        """ℓ(T_h(q), S_base(v)): what the base loses toward the output of the head `name`.

        `embedding` is `embedding_of_base`, of the crops that the head sees.
        """

    @abstractmethod
    def own_of_head(self, seen: StepOutputs, name: str) -> Tensor:
        """ℓ_h: what the head `name` loses on its own."""

    @abstractmethod
    def own_of_base(self, seen: StepOutputs, embedding: Tensor) -> Tensor:
        """ℓ_base: what the base loses with no head to follow: the objective as it was published."""

    def kept_of_base(self, seen: StepOutputs) -> Tensor | None:
        """m_base: the part of its own loss that the base keeps beside a head's target."""
        return None

    def temperature(self, position: StepPosition) -> float:
        """The temperature of the teacher's softmax, for objectives that have one."""
        return 1.0

    def adjust_gradients(self, student: Network, position: StepPosition) -> None:  # noqa: B027
        """Changes clipped gradients before the update, where the objective does."""

    def summary_of_base(self, base: BaseOutput) -> Tensor:
        """The features (B, D) that stand for an image in the base's scores.

        The base's own summary; an objective that does not train it takes another.
        """
        return base.pooled_BD

    def prototypes_of(self, network: Network) -> Prototypes | None:
        """How the network sorts images into prototypes; None for objectives without any."""
        return None

    def losses(self, seen: StepOutputs) -> Losses:
        """The base's loss and each head's."""
        student, names = seen.student, list(seen.student.heads)
        embedding = self.embedding_of_base(seen)
        if student.coupling == "observe" or not names:
            of_heads = {name: self.own_of_head(seen, name) for name in names}
            of_base = self.own_of_base(seen, embedding)
            return Losses(of_base, of_heads, torch.stack([of_base, *of_heads.values()]).sum())
        of_heads = {name: 0.5 * self.own_of_head(seen, name) for name in names}
        # Scaled where it leaves the base, not in the loss: what a head owns on the way keeps its
        # full gradient.
        shared = seen.by_heads(student.coupled(embedding))
        toward = torch.stack([0.5 * self.toward(seen, name, shared[name]) for name in names])
        of_base, total = toward.mean(), torch.stack([*toward.unbind(), *of_heads.values()]).sum()
        kept = self.kept_of_base(seen)
        if kept is not None:
            of_base, total = of_base + kept, total + kept
        return Losses(of_base, of_heads, total)

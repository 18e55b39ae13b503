"""Base class of the self-supervised objectives: targets, losses, and how heads enter them.

Notation: q ≠ v are two crops of an image, T is the teacher, S the student, h a head, ℓ the loss of
the objective. An objective defines four terms:

- ℓ_base: the loss of the base by itself, which is the objective as published;
- ℓ_h: the loss of the head h by itself, on its own features;
- ℓ(T_h(q), S_base(v)): the heterogeneous term. The base predicts, from crop v, the target that the
  teacher's head h computes from crop q;
- m_base: the part of ℓ_base that the base keeps beside the heterogeneous term. It is the loss on
  masked patches, and 0 in objectives that mask nothing.

With one head h the total loss is that of Li et al. 2025 (https://arxiv.org/abs/2310.05108), as
DESIGN.md states it for the published objective, `ibot`:

    L = ½ [ℓ(T_h(q), S_base(v)) + ℓ_h] + m_base

With K heads and coupling *joint*, the losses of all heads are added, and gradients are scaled by
1/K wherever they enter the base: from a head, or from a heterogeneous term. The base therefore
follows the mean of L over heads, and each head follows its own L in full. With coupling *observe*,
or with no head attached, the base is trained by ℓ_base alone, and each head by ℓ_h on detached
features.

Shapes: 2B crops (the first crop of each of B images, then the second of each), D feature width,
H × W the grid of the base's last feature map.
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


@dataclass(frozen=True)
class TargetInputs:
    """Arguments of `Objective.make_targets`, the same for all objectives.

    Attributes:
        teacher: the network that computes the targets. The student itself where the objective has
            no teacher.
        student: the network that is trained. It holds the state that tracks the teacher's outputs,
            such as centres.
        features: the teacher's features of the crops, none of them masked.
        crops_BCSS: the crops, (2B, C, S, S).
        temperature: the temperature of the teacher's softmax at this step, shape ().
    """

    teacher: Network
    student: Network
    features: Features
    crops_BCSS: Tensor
    temperature: Tensor


class Targets(NamedTuple):
    """The targets of a step's predictions. They carry no gradient."""

    by_owner: dict[str | None, Tensor]
    """The target from each head, by the head's name; the base's own target under None."""
    patches: Tensor | None = None
    """The targets of the base's patches, for objectives that predict masked patches this way."""


@dataclass(frozen=True)
class StepOutputs:
    """The student's features of a step's crops, and the targets to compare predictions with."""

    student: Network
    features: Features
    targets: Targets
    mask_BHW: Tensor | None = None
    """True at the patches that were hidden from the student; None if nothing was masked."""
    shares: HeadBatches | None = None
    """Which crops each head sees; None if every head sees all of them. A head's features and
    targets cover its own crops only. The base's features and targets, and the mask, cover all."""
    local_MD: Tensor | None = None
    """The base's pooled features of the local crops: L of each image, those of all images before
    the next L; None without multi-crop."""

    def hidden(self, head: str | None = None) -> Tensor:
        """The patches that were hidden from the student and hold data, (2B, H, W), bool.

        Args:
            head: its crops alone; all crops if None.
        """
        assert self.mask_BHW is not None
        valid_BHW = self.features.base.valid
        mask_BHW = self.mask_BHW if valid_BHW is None else self.mask_BHW & valid_BHW
        return mask_BHW if head is None else self.for_head(head, mask_BHW)

    def for_head(self, name: str, all_crops: Tensor) -> Tensor:
        """The rows of a tensor over all crops (2B, …) that belong to the crops of one head."""
        return all_crops if self.shares is None else self.shares.of([name], all_crops)[name]

    def for_each_head(self, all_crops: Tensor) -> dict[str, Tensor]:
        """The rows of a tensor over all crops (2B, …) that belong to each head's crops, by head."""
        names = list(self.student.heads)
        if self.shares is None:
            return dict.fromkeys(names, all_crops)
        return self.shares.of(names, all_crops)


@dataclass(frozen=True)
class Losses:
    """The losses of a step, all scalars: of the base, of each head, and the one to differentiate.

    `base` and `heads` are reported; `total` is what `backward` is called on.
    """

    base: Tensor
    heads: dict[str, Tensor]
    total: Tensor


class Objective(ABC):
    """A self-supervised objective in its heterogeneous form (see the top of this file).

    An objective holds no state. Everything that changes during training (projectors, prototypes,
    centres) lives in the modules that it makes for the base and for each head, so that detaching a
    head also removes everything that belongs to it. Nothing of one head depends on which other
    heads are attached.
    """

    clip_norm: float | None = None
    """Maximum gradient norm of each parameter tensor; None disables clipping."""
    has_prototypes: ClassVar[bool] = False
    """Whether the objective assigns images to prototypes (`prototypes_of`)."""
    takes_local_views: ClassVar[bool] = False
    """Whether the base can learn from local crops (multi-crop) besides the two crops."""
    has_teacher: ClassVar[bool] = True
    """Whether an EMA teacher computes the targets. If not, the student computes them, without
    gradient, and the student is the network that is scored."""

    @abstractmethod
    def base_projection(self, plan: BasePlan) -> nn.Module:
        """Makes the modules that the objective adds to the base, such as a projector."""

    @abstractmethod
    def head_projection(self, dim: int, of_base: nn.Module) -> nn.Module:
        """Makes the modules that the objective adds to one head.

        Args:
            dim: the width of the head's features.
            of_base: the base's modules, from `base_projection`; read for their shapes.
        """

    def mask(
        self, student: Network, crops: int, generator: torch.Generator | None
    ) -> Tensor | None:
        """Draws the patches to hide from the student, (2B, H, W) bool; None hides nothing.

        Args:
            student: its base projection knows the grid.
            crops: the number of crops, 2B.
            generator: a generator on the student's device; None only on the `meta` device.
        """
        return None

    def targets(
        self,
        teacher: Network,
        student: Network,
        features: Features,
        crops_BCSS: Tensor,
        temperature: Tensor,
    ) -> Targets:
        """Computes the targets of a step; call it under `torch.no_grad()`.

        The arguments are those of `TargetInputs`. Objectives implement `make_targets`.
        """
        return self.make_targets(TargetInputs(teacher, student, features, crops_BCSS, temperature))

    @abstractmethod
    def make_targets(self, inputs: TargetInputs) -> Targets:
        """Computes the targets from the teacher's features of the unmasked crops.

        State that tracks the teacher's outputs (a centre) is updated here, in the student's
        modules, after the targets have been computed with its previous value.
        """

    @abstractmethod
    def embedding_of_base(self, outputs: StepOutputs) -> Tensor:
        """The input (2B, …) of all predictions of the base, computed once for all heads."""

    @abstractmethod
    def loss_toward_head(self, outputs: StepOutputs, name: str, embedding: Tensor) -> Tensor:
        """The heterogeneous term ℓ(T_h(q), S_base(v)): the base predicts a head's target.

        Args:
            outputs: the outputs of the step.
            name: the head h.
            embedding: `embedding_of_base`, restricted to the crops that the head sees.
        """

    @abstractmethod
    def own_loss_of_head(self, outputs: StepOutputs, name: str) -> Tensor:
        """ℓ_h: the loss of the head `name` by itself."""

    @abstractmethod
    def own_loss_of_base(self, outputs: StepOutputs, embedding: Tensor) -> Tensor:
        """ℓ_base: the loss of the base by itself, which is the objective as published."""

    def kept_of_base(self, outputs: StepOutputs) -> Tensor | None:
        """m_base: the part of ℓ_base that stays beside the heterogeneous term; None for 0."""
        return None

    def temperature(self, position: StepPosition) -> float:
        """The temperature of the teacher's softmax, in objectives that have one."""
        return 1.0

    def adjust_gradients(self, student: Network, position: StepPosition) -> None:  # noqa: B027
        """Changes gradients after clipping and before the update. By default it does nothing."""

    def summary_of_base(self, base: BaseOutput) -> Tensor:
        """The features (B, D) that represent an image when the base is scored.

        By default the base's own pooled features. An objective that does not train those overrides
        this method.
        """
        return base.pooled_BD

    def prototypes_of(self, network: Network) -> Prototypes | None:
        """How a network assigns images to prototypes; None for objectives without prototypes."""
        return None

    def losses(self, outputs: StepOutputs) -> Losses:
        """Computes the losses of a step, as the top of this file defines them."""
        student, names = outputs.student, list(outputs.student.heads)
        embedding = self.embedding_of_base(outputs)
        if student.coupling == "observe" or not names:
            of_heads = {name: self.own_loss_of_head(outputs, name) for name in names}
            of_base = self.own_loss_of_base(outputs, embedding)
            return Losses(of_base, of_heads, torch.stack([of_base, *of_heads.values()]).sum())
        of_heads = {name: 0.5 * self.own_loss_of_head(outputs, name) for name in names}
        # The 1/K is applied to the gradient where it enters the base, not to the loss: modules that
        # a head owns on the way (such as the base's predictor toward it) keep their full gradient.
        embeddings = outputs.for_each_head(student.coupled(embedding))
        toward = torch.stack(
            [0.5 * self.loss_toward_head(outputs, name, embeddings[name]) for name in names]
        )
        # The base reports the mean over heads, which is what it follows. The total adds the terms
        # up, since their gradients are scaled already.
        of_base, total = toward.mean(), torch.stack([*toward.unbind(), *of_heads.values()]).sum()
        kept = self.kept_of_base(outputs)
        if kept is not None:
            of_base, total = of_base + kept, total + kept
        return Losses(of_base, of_heads, total)

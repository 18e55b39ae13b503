"""A base with heads attached; student and teacher; attach and detach.

Shapes: B images (the crops of a step stand one after the other), D width, N = H · W tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from headsearch.config.settings import Coupling
from headsearch.models.bases import Base, BaseOutput, drop_no_paths
from headsearch.models.head_batches import HeadBatches


@dataclass(frozen=True)
class Features:
    """What a network makes of a batch: the base's features and each head's."""

    base: BaseOutput
    heads_BND: dict[str, Tensor]
    """Each head's output tokens, after its own norm, of the images that it sees."""

    def pooled_BD(self, head: str) -> Tensor:
        """A head's own CLS: the mean of its output tokens."""
        return self.heads_BND[head].mean(dim=1)


class AttachedHead(nn.Module):
    """A head where it meets the base, and all that it owns: its norm and its projection.

    Args:
        head: maps (B, D, H, W) to (B, D, H, W).
        dim: D.
        projection: what the objective gives to a head.
        place: which of the base's maps it takes: 0 for the last, k for the one k before it.
    """

    def __init__(
        self, head: nn.Module, dim: int, projection: nn.Module, feature_index: int = 0
    ) -> None:
        super().__init__()
        self.head = head
        self.norm = nn.LayerNorm(dim)
        self.projection = projection
        self.feature_index = feature_index

    def tokens(self, base_map_BDHW: Tensor) -> Tensor:
        """The head's output tokens (B, N, D), before its norm."""
        return tokens_of(self.head(base_map_BDHW))

    def forward(self, base_map_BDHW: Tensor) -> Tensor:
        """The head's output tokens (B, N, D), after its norm."""
        return cast(Tensor, self.norm(self.tokens(base_map_BDHW)))


def tokens_of(map_BDHW: Tensor) -> Tensor:
    """A token map (B, D, H, W) as tokens (B, N, D)."""
    return map_BDHW.flatten(2).transpose(1, 2)


class Network(nn.Module):
    """One shared base, with a projection of its own, and the heads attached to it.

    Args:
        base: the base.
        projection: what the objective puts on the base: projector, prototypes, predictor, ….
        coupling: `joint`: the gradient that comes back through each of the K heads is scaled by
            1/K where the head meets the base, so the base receives the mean over heads while
            each head keeps its own full gradient. `observe`: heads take detached features.
    """

    def __init__(self, base: Base, projection: nn.Module, coupling: Coupling) -> None:
        super().__init__()
        self.base = base
        self.projection = projection
        self.coupling = coupling
        self._heads = nn.ModuleDict()

    @property
    def heads(self) -> dict[str, AttachedHead]:
        """The attached heads by the name of their candidate, in the order of attachment."""
        return {_name(key): cast(AttachedHead, module) for key, module in self._heads.items()}

    def attach(self, name: str, attached: AttachedHead) -> None:
        """Attaches a head under its candidate's name."""
        assert _key(name) not in self._heads, f"{name} is attached already"
        self._heads[_key(name)] = attached

    def detach(self, name: str) -> AttachedHead:
        """Takes a head away and returns it; everything else stays as it is."""
        return cast(AttachedHead, self._heads.pop(_key(name)))

    def coupled(self, shared: Tensor) -> Tensor:
        """What a head sees of a tensor that the base shares with it: features or prototypes."""
        if self.coupling == "observe":
            return shared.detach()
        return cast(Tensor, _ScaleGradient.apply(shared, 1 / len(self._heads)))

    def forward(
        self,
        images_BCSS: Tensor,
        mask_BHW: Tensor | None = None,
        shares: HeadBatches | None = None,
    ) -> Features:
        """Features of normalised images, of which the base does not see the masked patches.

        Args:
            shares: the images that each head sees; by default all.
        """
        heads = self.heads
        base: BaseOutput = self.base(images_BCSS, mask_BHW, feature_indices=self.feature_indices)
        seen = (
            {
                feature_index: self.coupled(base.maps_BDHW[feature_index])
                for feature_index in self.feature_indices
            }
            if heads
            else {}
        )
        maps = {name: seen[head.feature_index] for name, head in heads.items()}
        if shares is not None:
            for feature_index, map_BDHW in seen.items():
                here = [name for name, head in heads.items() if head.feature_index == feature_index]
                maps |= shares.of(here, map_BDHW) if here else {}
        return Features(base, {name: head(maps[name]) for name, head in heads.items()})

    @property
    def feature_indices(self) -> list[int]:
        """The maps of the base that are in use: the last one, and those that heads take."""
        return sorted({0, *(head.feature_index for head in self.heads.values())})

    def base_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters that belong to no head."""
        yield from ((n, p) for n, p in self.named_parameters() if head_of(n) is None)


class Teacher:
    """The exponential moving average of a student: what gives targets, and what is scored.

    It drops no paths.
    """

    def __init__(self, student: Network) -> None:
        self.network = _frozen(student)
        drop_no_paths(self.network)

    def attach(self, name: str, attached: AttachedHead) -> None:
        """Attaches a copy of a student's head as it is now."""
        self.network.attach(name, _frozen(attached))

    def detach(self, name: str) -> None:
        self.network.detach(name)

    @torch.no_grad()
    def follow(self, student: Network, momentum: float, moves: Tensor) -> None:
        """Moves every weight to momentum · teacher + (1 − momentum) · student; copies buffers.

        Args:
            moves: 1, or 0 for a step that must change nothing: the student's has not either.
        """
        mine = dict(self.network.named_parameters())
        theirs = dict(student.named_parameters())
        assert mine.keys() == theirs.keys(), "student and teacher hold the same network"
        targets, sources = list(mine.values()), [theirs[name].detach() for name in mine]
        distances = torch._foreach_sub(sources, targets)
        torch._foreach_mul_(distances, (1 - momentum) * moves.to(distances[0]))
        torch._foreach_add_(targets, distances)
        buffers = dict(moving_buffers(student))
        for name, buffer in moving_buffers(self.network):
            buffer.copy_(buffers[name])


class NoTeacher(Teacher):
    """Stands in for the teacher of an objective without one: the student itself is scored."""

    def __init__(self, student: Network) -> None:
        self.network = student

    def attach(self, name: str, attached: AttachedHead) -> None:
        """Nothing: the student has the head already."""

    def detach(self, name: str) -> None:
        """Nothing, likewise."""

    def follow(self, student: Network, momentum: float, moves: Tensor) -> None:
        """Nothing: there is nothing that lags behind."""


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, shared: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return shared.view_as(shared)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def _frozen(module: Any) -> Any:
    clone = copy.deepcopy(module)
    return clone.requires_grad_(False)


def moving_buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that a network's state holds; others are constants of its shape."""
    for prefix, module in network.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def head_of(parameter: str) -> str | None:
    """The head that a parameter or buffer of a network belongs to; None for the base's own."""
    room, _, rest = parameter.partition(".")
    return _name(rest.partition(".")[0]) if room == "_heads" else None


def _key(name: str) -> str:
    """torch's ModuleDict takes no dot in a key; candidates' names hold no underscore."""
    return name.replace(".", "_")


def _name(key: str) -> str:
    return key.replace("_", ".")


BASE = ""
"""The base's own name among the owners of features; candidates have others."""

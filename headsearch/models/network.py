"""A shared base with attached heads, the gradient scaling between them, and the EMA teacher.

Shapes: B images (the two crops of a step are concatenated along B), D width, N = H · W tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch import torchrun
from headsearch.config.settings import Coupling
from headsearch.device import out_of_memory
from headsearch.errors import UserError
from headsearch.models.bases import Base, BaseOutput, drop_no_paths
from headsearch.models.head_batches import HeadBatches
from headsearch.models.heads.padding import masked_mean, run_head
from headsearch.models.user_code import ANY_ERROR, one_line


@dataclass(frozen=True)
class Features:
    """The output of a network for one batch: features of the base and of each head."""

    base: BaseOutput
    heads_BND: dict[str, Tensor]
    """Output tokens of each head after its own norm, for the images that this head sees."""
    valid: Mapping[str, Tensor | None] = field(default_factory=dict)
    """(B, H, W), bool, for each head: where its maps hold data; None if there is no padding."""

    def pooled_BD(self, head: str) -> Tensor:
        """The image-level feature of a head (its CLS): the mean of its output tokens.

        Tokens on padding are left out.
        """
        return masked_mean(self.heads_BND[head], self.valid.get(head))


class HeadFailedError(UserError):
    """A head cannot train: its code raises an error, or does what no head may do.

    Attributes:
        head: the name of the candidate.
        reason: why, in a few words.
    """

    def __init__(self, head: str, reason: str) -> None:
        super().__init__(f"the head {head} failed: {reason}")
        self.head, self.reason = head, reason


@contextmanager
def failing_as(name: str, map_BDHW: Tensor | None = None) -> Iterator[None]:
    """Runs the code of a head; whatever it raises becomes an error that names the head.

    Other heads share the input, so a head must not change it. Lack of memory is no fault of the
    head. In a job of several processes, errors stay as they are: another process that ended shows
    as an error too. Nothing here waits for the device.

    Args:
        name: the candidate.
        map_BDHW: its input.

    Raises:
        HeadFailedError: the code raised an error, or changed its input in place.
    """
    version = None if map_BDHW is None else map_BDHW._version
    try:
        yield
    except ANY_ERROR as error:
        if isinstance(error, HeadFailedError) or out_of_memory(error) or torchrun.count() > 1:
            raise
        raise HeadFailedError(name, one_line(error)) from error
    if map_BDHW is not None and map_BDHW._version != version:
        raise HeadFailedError(name, "it changes its input in place")


class AttachedHead(nn.Module):
    """A head together with the modules that belong to it alone: its final norm and its projection.

    Args:
        head: module that maps (B, D, H, W) to (B, D, H, W).
        dim: D, the width of the map.
        projection: the modules that the objective adds to a head (projector, predictor, …).
        feature_index: which map of the base is the input, counted from the last: 0 is the last
            map, k the map k blocks (or stages) before it.
    """

    def __init__(
        self, head: nn.Module, dim: int, projection: nn.Module, feature_index: int = 0
    ) -> None:
        super().__init__()
        self.head = head
        self.norm = nn.LayerNorm(dim)
        self.projection = projection
        self.feature_index = feature_index

    def tokens(self, base_map_BDHW: Tensor, valid_BHW: Tensor | None = None) -> Tensor:
        """The head's output tokens (B, N, D), before its norm.

        On padding, where `valid_BHW` is False, they are zero.
        """
        return tokens_of(run_head(self.head, base_map_BDHW, valid_BHW))

    def forward(self, base_map_BDHW: Tensor, valid_BHW: Tensor | None = None) -> Tensor:
        """The head's output tokens (B, N, D), after its norm."""
        return cast(Tensor, self.norm(self.tokens(base_map_BDHW, valid_BHW)))


def tokens_of(map_BDHW: Tensor) -> Tensor:
    """Flattens a token map (B, D, H, W) to tokens (B, N, D)."""
    return map_BDHW.flatten(2).transpose(1, 2)


def valid_on(map_BDHW: Tensor, valid_BHW: Tensor | None) -> Tensor | None:
    """A mask of the base's last map, on the grid of another of its maps; None if there is none."""
    if valid_BHW is None or valid_BHW.shape[1:] == map_BDHW.shape[2:]:
        return valid_BHW
    as_map = valid_BHW.unsqueeze(1).to(torch.uint8)
    return F.interpolate(as_map, size=map_BDHW.shape[2:], mode="nearest").squeeze(1).bool()


class Network(nn.Module):
    """One shared base with its own projection, and the heads that are attached to it.

    Args:
        base: the base.
        projection: the modules that the objective adds to the base (projector, prototypes,
            predictor, …).
        coupling: whether heads send gradients to the base. `joint`: they do, each scaled by 1/K
            for K heads, so that the base receives their mean (see `coupled`). `observe`: heads
            take detached features.
    """

    def __init__(self, base: Base, projection: nn.Module, coupling: Coupling) -> None:
        super().__init__()
        self.base = base
        self.projection = projection
        self.coupling = coupling
        self._heads = nn.ModuleDict()

    @property
    def heads(self) -> dict[str, AttachedHead]:
        """The attached heads by candidate name, in the order in which they were attached."""
        return {_name(key): cast(AttachedHead, module) for key, module in self._heads.items()}

    def attach(self, name: str, attached: AttachedHead) -> None:
        """Attaches a head under the name of its candidate."""
        assert _key(name) not in self._heads, f"{name} is attached already"
        self._heads[_key(name)] = attached

    def detach(self, name: str) -> AttachedHead:
        """Removes a head and returns it. The base and the other heads do not change."""
        return cast(AttachedHead, self._heads.pop(_key(name)))

    def coupled(self, shared: Tensor) -> Tensor:
        """Applies the coupling to a tensor that the base shares with its heads.

        Such tensors are the base's features and prototypes. The values are unchanged; the gradient
        depends on the coupling. `observe`: none reaches the base. `joint`: the gradient that
        reaches the base is divided by K, the number of heads.
        """
        if self.coupling == "observe":
            return shared.detach()
        # Autograd adds up the gradients of all K heads here. Scaled by 1/K the sum is their mean,
        # so that the base gets a gradient of the same size however many heads a cohort has. The
        # scaling sits behind the heads, so each head still gets the full gradient of its own loss
        # and trains as it would alone.
        return scale_gradient(shared, 1 / len(self._heads))

    def forward(
        self,
        images_BCSS: Tensor,
        mask_BHW: Tensor | None = None,
        shares: HeadBatches | None = None,
    ) -> Features:
        """Runs the base once and every head on its map.

        Args:
            images_BCSS: normalised images.
            mask_BHW: bool; True for patches that are hidden from the base.
            shares: the images that each head sees; every head sees all images when None.
        """
        heads = self.heads
        base: BaseOutput = self.base(images_BCSS, mask_BHW, feature_indices=self.feature_indices)
        shared_maps = (
            {
                feature_index: self.coupled(base.maps_BDHW[feature_index])
                for feature_index in self.feature_indices
            }
            if heads
            else {}
        )
        inputs = {name: shared_maps[head.feature_index] for name, head in heads.items()}
        valid: dict[str, Tensor | None] = dict.fromkeys(heads, base.valid)
        if shares is not None:
            for index, map_BDHW in shared_maps.items():
                names = [name for name, head in heads.items() if head.feature_index == index]
                inputs |= shares.of(names, map_BDHW) if names else {}
            if base.valid is not None and heads:
                valid |= shares.of(list(heads), base.valid)
        valid = {name: valid_on(inputs[name], mask) for name, mask in valid.items()}
        tokens = {}
        for name, head in heads.items():
            with failing_as(name, inputs[name]):
                tokens[name] = head(inputs[name], valid[name])
        return Features(base, tokens, valid)

    @property
    def feature_indices(self) -> list[int]:
        """Indices of the base's maps that are in use: the last map (0) and the inputs of heads."""
        return sorted({0, *(head.feature_index for head in self.heads.values())})

    def base_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields (name, parameter) for every parameter that belongs to no head."""
        yield from ((n, p) for n, p in self.named_parameters() if head_of(n) is None)


class Teacher:
    """An exponential moving average (EMA) of the student; it gives the targets and is scored.

    Its parameters take no gradient, and its drop path is off.
    """

    def __init__(self, student: Network) -> None:
        self.network = _frozen(student)
        drop_no_paths(self.network)

    def attach(self, name: str, attached: AttachedHead) -> None:
        """Attaches a copy of the student's head with its current weights."""
        self.network.attach(name, _frozen(attached))

    def detach(self, name: str) -> None:
        """Removes the copy of a head."""
        self.network.detach(name)

    @torch.no_grad()
    def follow(self, student: Network, momentum: float, moves: Tensor) -> None:
        """Sets every weight to momentum · teacher + (1 − momentum) · student; copies buffers.

        Args:
            student: the network to average.
            momentum: the weight of the teacher's own past, in [0, 1].
            moves: scalar tensor: 1, or 0 to leave the weights unchanged in a step in which the
                student's weights did not change either.
        """
        own = dict(self.network.named_parameters())
        students = dict(student.named_parameters())
        assert own.keys() == students.keys(), "student and teacher hold the same network"
        targets, sources = list(own.values()), [students[name].detach() for name in own]
        # `moves` is a factor rather than an `if`: reading it would make the host wait for the
        # device in every step. The foreach calls update all tensors in a few kernels.
        differences = torch._foreach_sub(sources, targets)
        torch._foreach_mul_(differences, (1 - momentum) * moves.to(differences[0]))
        torch._foreach_add_(targets, differences)
        buffers = dict(moving_buffers(student))
        for name, buffer in moving_buffers(self.network):
            buffer.copy_(buffers[name])


class NoTeacher(Teacher):
    """Replaces the teacher where an objective has none: the student itself is scored."""

    def __init__(self, student: Network) -> None:
        self.network = student

    def attach(self, name: str, attached: AttachedHead) -> None:
        """Does nothing: the student, which is the same network, has the head already."""

    def detach(self, name: str) -> None:
        """Does nothing: the student has removed the head already."""

    def follow(self, student: Network, momentum: float, moves: Tensor) -> None:
        """Does nothing: there is no average to update."""


def scale_gradient(tensor: Tensor, scale: float) -> Tensor:
    """Returns the tensor unchanged; in the backward pass its gradient is multiplied by `scale`."""
    return cast(Tensor, _ScaleGradient.apply(tensor, scale))


class _ScaleGradient(torch.autograd.Function):
    """The autograd function of `scale_gradient`."""

    @staticmethod
    def forward(ctx: Any, shared: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return shared.view_as(shared)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def _frozen(module: Any) -> Any:
    """A deep copy whose parameters take no gradient."""
    clone = copy.deepcopy(module)
    return clone.requires_grad_(False)


def moving_buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, buffer) for the persistent buffers, those in the network's state dict.

    Buffers that are not persistent are constants of the architecture, equal in every copy.
    """
    for prefix, module in network.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def head_of(parameter: str) -> str | None:
    """The head that a named parameter or buffer belongs to; None where it belongs to the base."""
    child, _, rest = parameter.partition(".")
    return _name(rest.partition(".")[0]) if child == "_heads" else None


def _key(name: str) -> str:
    """The ModuleDict key of a candidate: its name with underscores for dots.

    `nn.ModuleDict` takes no dots in keys. Names of candidates have no underscores, so `_name` can
    undo the replacement.
    """
    return name.replace(".", "_")


def _name(key: str) -> str:
    return key.replace("_", ".")


BASE = ""
"""The key of the base in mappings from candidate names to features; no candidate is called so."""

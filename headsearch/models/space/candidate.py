"""What a search space comes to on a base: candidates.

Who asks for them is `space.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from headsearch.models.heads import Family, Grid, Value, fit_to_map


class BaseShape(Protocol):
    """What a space needs to know of a base."""

    @property
    def stages(self) -> Sequence[tuple[int, Grid]]: ...  # width and (H, W) of its maps, last first

    @property
    def own_family(self) -> str | None: ...  # the family of its own blocks, if there is one

    @property
    def params_m(self) -> float: ...  # millions

    @property
    def gflops(self) -> float: ...  # of one image's forward


@dataclass(frozen=True)
class Candidate:
    """One point of the space on one base.

    Attributes:
        name: unique, readable, fit for a file name: "convnext-d3-k7-noshortcut".
        family: its family, or "own".
        parameters: all of its family's parameters; of "own", those that the control has.
        control: whether it is there to compare with; never pruned, excluded or recommended.
        params_m: millions of parameters.
        gflops: GFLOPs (two a multiply-add) of one image's forward.
        block: the family that is built: of "own", the base's.
        place: which of the base's maps it takes: 0 for the last, k for the one k before it. Its
            costs are those on that map.
        trial_params: what an Optuna trial holds for it, for `study.enqueue_trial`.
        made_by: the family of the name `block`.
        fault: why it cannot be built on this base, empty where it can. Its costs are then NaN.
    """

    name: str
    family: str
    parameters: Mapping[str, Value] = field(hash=False)
    control: bool
    params_m: float
    gflops: float
    block: str
    feature_index: int
    trial_params: Mapping[str, Value] = field(compare=False, repr=False)
    made_by: Family = field(compare=False, repr=False)
    fault: str = field(default="", compare=False)

    def build(self, dim: int, grid: Grid) -> nn.Module:
        """A fresh head (B, dim, H, W) → (B, dim, H, W) with `grid` = (H, W), those of its place."""
        return fit_to_map(self.made_by.make(dim, grid, self.parameters), grid)


@dataclass(frozen=True)
class Listing:
    """All candidates of a space on a base.

    Attributes:
        candidates: controls first, then by family and parameters; always in the same order.
        merged: points that are the same head as a candidate of another name: (as written, the
            candidate's name).
        excluded: candidates that the constraints forbid or the base cannot have, each with the
            reason.
    """

    candidates: tuple[Candidate, ...]
    merged: tuple[tuple[str, str], ...]
    excluded: tuple[tuple[Candidate, str], ...]

"""`Candidate`, one head of a search space on a base, and `Listing`, all heads of a small space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pandas as pd
from torch import nn

from headsearch.models.heads import Family, Grid, Value, fit_to_map


class BaseShape(Protocol):
    """The properties of a base that a search space depends on; `BasePlan` has them."""

    @property
    def stages(self) -> Sequence[tuple[int, Grid]]: ...  # width and (H, W) of its maps, last first

    @property
    def own_family(self) -> str | None: ...  # the family with the same blocks, if there is one

    @property
    def causal(self) -> bool: ...  # whether its outputs depend on inputs up to their own only

    @property
    def params_m(self) -> float: ...  # millions of parameters

    @property
    def gflops(self) -> float: ...  # GFLOPs of one forward of one image


@dataclass(frozen=True)
class Candidate:
    """One point of a search space on one base: a head that can be built and trained.

    Attributes:
        name: unique, readable and valid as a file name, such as "convnext-d3-k7-noshortcut".
        family: the name of its family, or "own".
        parameters: all parameters of the family; for "own", those of the control.
        control: whether it is a reference for comparison. Controls are never pruned, excluded or
            recommended.
        params_m: millions of parameters.
        gflops: GFLOPs (2 × multiply-adds) of one forward of one image.
        block: the name of the family that is built; for "own", the base's own family.
        feature_index: which map of the base is its input, counted from the last: 0 is the last map,
            k the map k before it. The costs are those on this map.
        trial_params: its parameters in an Optuna trial, for `study.enqueue_trial`.
        made_by: the family named `block`.
        fault: the reason why it cannot be built on this base, with costs of NaN; empty if it can.
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
        """Builds a head with new weights: (B, dim, H, W) → (B, dim, H, W) for `grid` = (H, W).

        `dim` and `grid` are those of the map at `feature_index`.
        """
        return fit_to_map(self.made_by.make(dim, grid, self.parameters), grid)


@dataclass(frozen=True)
class Listing:
    """All candidates of a space on a base.

    Attributes:
        candidates: controls first, then by family and parameters; the order is always the same.
        merged: pairs (name of a point as written, name of the candidate that is the same head).
        excluded: candidates that violate the constraints or cannot be built on the base, each with
            the reason.
    """

    candidates: tuple[Candidate, ...]
    merged: tuple[tuple[str, str], ...]
    excluded: tuple[tuple[Candidate, str], ...]

    def table(self, base: BaseShape) -> pd.DataFrame:
        """A row a candidate with its cost, as it is and as a share of the base's."""
        return pd.DataFrame(
            {
                "candidate": candidate.name,
                "family": candidate.family,
                "control": candidate.control,
                "params_m": candidate.params_m,
                "params_share": candidate.params_m / base.params_m,
                "gflops": candidate.gflops,
                "gflops_share": candidate.gflops / base.gflops,
            }
            for candidate in self.candidates
        )

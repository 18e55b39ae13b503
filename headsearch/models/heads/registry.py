"""`FAMILIES`, the registry of head families by name, and `build_head`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from headsearch.errors import unknown
from headsearch.models.heads.attention import ATTENTION, LINEAR_ATTENTION, SWIN, XCIT
from headsearch.models.heads.controls import IDENTITY
from headsearch.models.heads.convolution import BOTTLENECK, CONVNEXT, DILATED, MAMBAOUT, MBCONV
from headsearch.models.heads.family import Family, Grid, Value
from headsearch.models.heads.frequency import GFNET
from headsearch.models.heads.hybrid import HYBRID
from headsearch.models.heads.large_kernel import CONVMIXER, FOCALNET, INCEPTIONNEXT, VAN
from headsearch.models.heads.mlp import GMLP, MIXER, RESMLP
from headsearch.models.heads.norm import NORM, SOME_NORM, renormalised
from headsearch.models.heads.pooling import POOLFORMER
from headsearch.models.heads.recurrent import GRU, LSTM
from headsearch.models.heads.state_space import SSM
from headsearch.models.heads.width import WIDTH, AtWidth, inner_width


def with_common_parameters(family: Family) -> Family:
    """Adds the parameters that all families except controls have: `norm` and `width`.

    A family whose blocks have no norm gets no parameter `norm`. One whose blocks multiply features
    gets it without the choice "none" (see `Family.multiplies`).
    """

    def build(dim: int, grid: Grid, *, width: float, norm: str = "own", **own: Any) -> nn.Module:
        inner = inner_width(width, dim)
        head = renormalised(family.build(inner, grid, **own), norm)
        return head if inner == dim else AtWidth(dim, inner, head)

    norms = {"norm": SOME_NORM if family.multiplies else NORM} if family.norm else {}
    return replace(family, build=build, parameters={**family.parameters, **norms, "width": WIDTH})


FAMILIES: dict[str, Family] = {
    family.name: family if family.control else with_common_parameters(family)
    for family in (
        ATTENTION,
        SWIN,
        LINEAR_ATTENTION,
        XCIT,
        CONVNEXT,
        MAMBAOUT,
        BOTTLENECK,
        DILATED,
        MBCONV,
        CONVMIXER,
        INCEPTIONNEXT,
        FOCALNET,
        VAN,
        GFNET,
        MIXER,
        RESMLP,
        GMLP,
        POOLFORMER,
        LSTM,
        GRU,
        SSM,
        HYBRID,
        IDENTITY,
    )
}


def find_family(name: str) -> Family:
    """The built-in family of this name. Raises UserError if there is none."""
    if name not in FAMILIES:
        raise unknown("family", name, FAMILIES)
    return FAMILIES[name]


def build_head(family: str, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> nn.Module:
    """Builds a head with new weights for maps (B, dim, H, W), where `grid` is (H, W).

    Parameters that are not given have the family's defaults. A value that is too large for the map
    is replaced by the largest that makes a difference on it.

    Raises:
        UserError: the family or a parameter is unknown, or a value is not valid.
    """
    return find_family(family).make(dim, grid, parameters)

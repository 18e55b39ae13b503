"""All families of heads by name, and the one way to build a head."""

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
from headsearch.models.heads.width import WIDTH, AtWidth, inner_width


def with_common_knobs(family: Family) -> Family:
    """A family with the knobs that every family has but the controls: `norm` and `width`.

    `norm` is left out where a family's blocks have no norm of their own to put another in place of,
    and its value "none" where they multiply.
    """

    def build(dim: int, grid: Grid, *, width: float, norm: str = "own", **own: Any) -> nn.Module:
        inner = inner_width(width, dim)
        head = renormalised(family.build(inner, grid, **own), norm)
        return head if inner == dim else AtWidth(dim, inner, head)

    norms = {"norm": SOME_NORM if family.multiplies else NORM} if family.norm else {}
    return replace(family, build=build, parameters={**family.parameters, **norms, "width": WIDTH})


FAMILIES: dict[str, Family] = {
    family.name: family if family.control else with_common_knobs(family)
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
        HYBRID,
        IDENTITY,
    )
}


def find_family(name: str) -> Family:
    """The family of this name that comes with headsearch. Raises UserError where there is none."""
    if name not in FAMILIES:
        raise unknown("family", name, FAMILIES)
    return FAMILIES[name]


def build_head(family: str, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> nn.Module:
    """A head of this family on maps (B, dim, H, W) with `grid` = (H, W), fresh weights.

    Parameters not given take the family's defaults; values too large for the map are built as the
    largest that make a difference there.

    Raises:
        UserError: for an unknown family or parameter, or a value outside its bounds.
    """
    return find_family(family).make(dim, grid, parameters)

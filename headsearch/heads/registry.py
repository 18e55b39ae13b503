"""All families of heads by name, and the one way to build a head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from headsearch.errors import unknown
from headsearch.heads.attention import ATTENTION, SWIN
from headsearch.heads.controls import IDENTITY
from headsearch.heads.convolution import BOTTLENECK, CONVNEXT, MAMBAOUT
from headsearch.heads.family import Family, Grid, Value
from headsearch.heads.mlp import GMLP, MIXER, RESMLP
from headsearch.heads.pooling import POOLFORMER

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        ATTENTION,
        SWIN,
        CONVNEXT,
        MAMBAOUT,
        BOTTLENECK,
        MIXER,
        RESMLP,
        GMLP,
        POOLFORMER,
        IDENTITY,
    )
}


def build_head(family: str, dim: int, grid: Grid, parameters: Mapping[str, Value]) -> nn.Module:
    """A head of this family on maps (B, dim, H, W) with `grid` = (H, W), fresh weights.

    Parameters not given take the family's defaults; values too large for the map are built as the
    largest that make a difference there.

    Raises:
        UserError: for an unknown family or parameter, or a value outside its bounds.
    """
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    knobs = FAMILIES[family].parameters
    for name in parameters:
        if name not in knobs:
            raise unknown(f"parameter of {family}", name, knobs)
    values = {
        name: knob.on(grid, knob.check(f"{family}.{name}", parameters.get(name, knob.default)))
        for name, knob in knobs.items()
    }
    return FAMILIES[family].build(dim, grid, **values)

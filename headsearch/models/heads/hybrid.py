"""Heads that take turns between two families: one that mixes near tokens, one that mixes all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from headsearch.models.heads.attention import ATTENTION, LINEAR_ATTENTION, SWIN, XCIT
from headsearch.models.heads.convolution import BOTTLENECK, CONVNEXT, DILATED, MAMBAOUT, MBCONV
from headsearch.models.heads.family import Family, Grid, Parameter
from headsearch.models.heads.frequency import GFNET
from headsearch.models.heads.large_kernel import CONVMIXER, FOCALNET, INCEPTIONNEXT, VAN
from headsearch.models.heads.mlp import GMLP, MIXER, RESMLP
from headsearch.models.heads.pooling import POOLFORMER
from headsearch.models.heads.shortcuts import SHORTCUTS

NEAR = {
    family.name: family
    for family in (
        CONVNEXT,
        MAMBAOUT,
        BOTTLENECK,
        DILATED,
        MBCONV,
        CONVMIXER,
        INCEPTIONNEXT,
        VAN,
        POOLFORMER,
        SWIN,
    )
}
FAR = {
    family.name: family
    for family in (ATTENTION, LINEAR_ATTENTION, XCIT, FOCALNET, GFNET, MIXER, RESMLP, GMLP)
}


def build_hybrid(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    near: str,
    near_blocks: int,
    far: str,
    far_blocks: int,
    order: str,
    first_shortcut: bool,
    shortcuts: bool,
) -> nn.Module:
    """`near_blocks` of one family, then `far_blocks` of the other, all of that `depth` times.

    Blocks have their families' defaults. As CoAtNet (Dai et al. 2021) does with inverted residuals
    and attention, near before far is the default.
    """
    turn = [(NEAR[near], near_blocks), (FAR[far], far_blocks)]
    if order == "far":
        turn.reverse()
    parts = [
        family.make(
            dim,
            grid,
            {
                "depth": blocks,
                "first_shortcut": first_shortcut or index > 0,
                "shortcuts": shortcuts,
            },
        )
        for index, (family, blocks) in enumerate(turn * depth)
    ]
    return nn.Sequential(*parts)


def _blocks(values: Mapping[str, Any]) -> int:
    return int(values["depth"] * (values["near_blocks"] + values["far_blocks"]))


def _settle_norm(values: dict[str, Any], grid: Grid) -> None:
    """A norm that both families have anyway is their own."""
    if {NEAR[values["near"]].norm, FAR[values["far"]].norm} <= {values.get("norm"), ""}:
        values["norm"] = "own"


HYBRID = Family(
    "hybrid",
    "two families in turn, one near and one far",
    build_hybrid,
    {
        "depth": Parameter(
            "int", 1, "how often both take their turn", "d{}", always=True, low=1, high=8
        ),
        "near": Parameter(
            "choice",
            "convnext",
            "the family that mixes near tokens",
            "{}",
            always=True,
            choices=tuple(NEAR),
        ),
        "near_blocks": Parameter("int", 1, "blocks of it in a turn", "n{}", low=1, high=8),
        "far": Parameter(
            "choice",
            "attention",
            "the family that mixes tokens from afar",
            "and-{}",
            always=True,
            choices=tuple(FAR),
        ),
        "far_blocks": Parameter("int", 1, "blocks of it in a turn", "f{}", low=1, high=8),
        "order": Parameter(
            "choice", "near", "which of the two begins", "{}first", choices=("near", "far")
        ),
        **SHORTCUTS,
    },
    norm="mixed",
    multiplies=True,
    blocks=_blocks,
    settle=_settle_norm,
)

"""The head family `hybrid`: alternates blocks of a local family and of a global family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from headsearch.errors import UserError
from headsearch.models.heads.attention import ATTENTION, LINEAR_ATTENTION, SWIN, XCIT
from headsearch.models.heads.convolution import BOTTLENECK, CONVNEXT, DILATED, MAMBAOUT, MBCONV
from headsearch.models.heads.family import CAUSAL, Family, Grid, Parameter
from headsearch.models.heads.frequency import GFNET
from headsearch.models.heads.large_kernel import CONVMIXER, FOCALNET, INCEPTIONNEXT, VAN
from headsearch.models.heads.mlp import GMLP, MIXER, RESMLP
from headsearch.models.heads.pooling import POOLFORMER
from headsearch.models.heads.recurrent import GRU, LSTM
from headsearch.models.heads.shortcuts import SHORTCUTS
from headsearch.models.heads.state_space import SSM

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
"""Families that mix tokens within a neighbourhood."""
FAR = {
    family.name: family
    for family in (
        ATTENTION,
        LINEAR_ATTENTION,
        XCIT,
        FOCALNET,
        GFNET,
        MIXER,
        RESMLP,
        GMLP,
        LSTM,
        GRU,
        SSM,
    )
}
"""Families in which every token can depend on the whole map."""


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
    causal: bool = False,
) -> nn.Module:
    """Repeats `depth` times: `near_blocks` blocks of a local, `far_blocks` of a global family.

    All other parameters of the blocks have the defaults of their families. By default the local
    blocks come first, as in CoAtNet, which combines inverted residuals with attention.

    Source: Dai et al., *CoAtNet: Marrying Convolution and Attention for All Data Sizes*, NeurIPS
    2021, https://arxiv.org/abs/2106.04803.

    Shapes: each family's blocks, on maps (B, D, H, W).
    """
    unit = [(NEAR[near], near_blocks), (FAR[far], far_blocks)]
    if order == "far":
        unit.reverse()
    parts = [
        family.make(
            dim,
            grid,
            {
                "depth": blocks,
                "first_shortcut": first_shortcut or index > 0,
                "shortcuts": shortcuts,
                **({"causal": True} if causal else {}),
            },
        )
        for index, (family, blocks) in enumerate(unit * depth)
    ]
    return nn.Sequential(*parts)


def _blocks(values: Mapping[str, Any]) -> int:
    return int(values["depth"] * (values["near_blocks"] + values["far_blocks"]))


def _settle(values: dict[str, Any], grid: Grid) -> None:
    """Sets `norm` to "own" where it asks for the norm that both families have by default.

    Raises:
        UserError: the head is to be causal, but one of its families has no causal form.
    """
    if values["causal"]:
        for family in (NEAR[values["near"]], FAR[values["far"]]):
            if "causal" not in family.parameters:
                raise UserError(
                    f"hybrid.causal: {family.name} has no causal form; use another family"
                )
    if {NEAR[values["near"]].norm, FAR[values["far"]].norm} <= {values.get("norm"), ""}:
        values["norm"] = "own"


HYBRID = Family(
    "hybrid",
    "two families in turn, one near and one far",
    build_hybrid,
    {
        "depth": Parameter(
            "int", 1, "how often the two families alternate", "d{}", always=True, low=1, high=8
        ),
        "near": Parameter(
            "choice",
            "convnext",
            "the family that mixes near tokens",
            "{}",
            always=True,
            choices=tuple(NEAR),
        ),
        "near_blocks": Parameter("int", 1, "blocks of it in a row", "n{}", low=1, high=8),
        "far": Parameter(
            "choice",
            "attention",
            "the family that mixes tokens from afar",
            "and-{}",
            always=True,
            choices=tuple(FAR),
        ),
        "far_blocks": Parameter("int", 1, "blocks of it in a row", "f{}", low=1, high=8),
        "order": Parameter(
            "choice", "near", "which of the two comes first", "{}first", choices=("near", "far")
        ),
        **SHORTCUTS,
        "causal": CAUSAL,
    },
    norm="mixed",
    multiplies=True,
    blocks=_blocks,
    settle=_settle,
    one_length=lambda values: any(
        family.one_length(values) for family in (NEAR[values["near"]], FAR[values["far"]])
    ),
)

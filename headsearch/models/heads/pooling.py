"""The head family `poolformer`: mixes tokens by average pooling, without weights."""

from __future__ import annotations

from functools import partial

from timm.models.metaformer import GroupNorm1NoBias
from torch import nn

from headsearch.models.heads.family import CAUSAL, DEPTH, Family, Grid, Parameter
from headsearch.models.heads.init import truncated_normal
from headsearch.models.heads.metaformer import metaformer
from headsearch.models.heads.sequence import NeighbourMean, along_row
from headsearch.models.heads.shortcuts import SHORTCUTS


def build_poolformer(
    dim: int, grid: Grid, *, depth: int, pool: int, causal: bool = False, **shortcuts: bool
) -> nn.Module:
    """PoolFormer blocks: the mean over `pool` × `pool` tokens minus the token itself.

    Without its shortcut the first block's token mixing is this difference alone, a high-pass
    filter. The norms have no bias: the difference would cancel the bias of the first norm, and the
    bias of the MLP makes that of the second redundant.

    Source: Yu et al., *MetaFormer Is Actually What You Need for Vision*, CVPR 2022,
    https://arxiv.org/abs/2111.11418.

    Shapes: blocks take and return maps (B, D, H, W).
    """
    mixer = partial(NeighbourMean, pool_size=pool)
    head = metaformer(dim, depth, mixer, GroupNorm1NoBias, **shortcuts)
    return truncated_normal(along_row(head, grid, causal=causal))


POOLFORMER = Family(
    "poolformer",
    "averages of neighbours, no weights in mixing",
    build_poolformer,
    {
        "depth": DEPTH,
        "pool": Parameter(
            "int",
            3,
            "side of the pooled neighbourhood, in tokens",
            "p{}",
            always=True,
            low=3,
            high=31,
            odd=True,
            largest_useful=lambda grid: 2 * max(grid) - 1,
        ),
        **SHORTCUTS,
        "causal": CAUSAL,
    },
    norm="group",
)

"""Heads that mix tokens without a weight: averages over a neighbourhood."""

from __future__ import annotations

from timm.models.metaformer import GroupNorm1NoBias, MetaFormerBlock, Pooling
from torch import nn

from headsearch.heads.family import DEPTH, FIRST_SHORTCUT, Family, Grid, Parameter
from headsearch.heads.init import truncated_normal
from headsearch.heads.layout import NoShortcut


def build_poolformer(
    dim: int, grid: Grid, *, depth: int, pool: int, first_shortcut: bool
) -> nn.Module:
    """PoolFormer blocks (Yu et al. 2022): the mean over pool × pool tokens less the token itself.

    Without the first shortcut what is left of it is that difference, a high-pass filter. The norms
    have no bias: the difference cancels the first's, and the MLP's own bias covers the second's.
    """
    blocks = [
        MetaFormerBlock(
            dim,
            token_mixer=Pooling,
            mlp_act=nn.GELU,
            mlp_bias=True,
            norm_layer=GroupNorm1NoBias,
            pool_size=pool,
        )
        for _ in range(depth)
    ]
    if not first_shortcut:
        # timm scales the shortcut of the token mixing by this module.
        blocks[0].res_scale1 = NoShortcut()
    return truncated_normal(nn.Sequential(*blocks))


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
        "first_shortcut": FIRST_SHORTCUT,
    },
)

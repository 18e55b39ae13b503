"""Heads of one frame with a token mixing of their own (MetaFormer, Yu et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable

from timm.models.metaformer import MetaFormerBlock
from torch import nn

from headsearch.models.heads.shortcuts import opened, replacing


def metaformer(
    dim: int,
    depth: int,
    token_mixer: Callable[..., nn.Module],
    norm_layer: type[nn.Module],
    **shortcuts: bool,
) -> nn.Module:
    """timm's MetaFormer blocks: norm and token mixing, then norm and an MLP of 4 × the width.

    Args:
        token_mixer: `token_mixer(dim=dim, **ignored)` gives a module on maps (B, dim, H, W).
        norm_layer: on such maps.
        shortcuts: the values of the knobs of `shortcuts.py`.
    """
    blocks = [
        MetaFormerBlock(
            dim, token_mixer=token_mixer, mlp_act=nn.GELU, mlp_bias=True, norm_layer=norm_layer
        )
        for _ in range(depth)
    ]
    # timm scales the shortcut of the token mixing by this module.
    return nn.Sequential(*opened(blocks, replacing("res_scale1"), **shortcuts))

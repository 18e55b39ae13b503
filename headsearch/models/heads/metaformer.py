"""MetaFormer blocks (Yu et al. 2022), shared by the families that differ only in token mixing."""

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
    """timm's MetaFormer blocks: norm and token mixer, then norm and an MLP of 4 × the width.

    Args:
        dim: the width of the map.
        depth: the number of blocks.
        token_mixer: `token_mixer(dim=dim, **ignored)` returns a module on maps (B, dim, H, W).
        norm_layer: the class of a norm on such maps.
        shortcuts: whether blocks keep their shortcuts.
    """
    blocks = [
        MetaFormerBlock(
            dim, token_mixer=token_mixer, mlp_act=nn.GELU, mlp_bias=True, norm_layer=norm_layer
        )
        for _ in range(depth)
    ]
    # `res_scale1` is timm's module that scales the shortcut around the token mixer.
    return nn.Sequential(*opened(blocks, replacing("res_scale1"), **shortcuts))

"""How a head's weights begin: as timm begins the models that its blocks are from."""

from __future__ import annotations

from timm.layers import trunc_normal_
from torch import nn


def truncated_normal(head: nn.Module) -> nn.Module:
    """Weights from a normal of deviation 0.02, cut at ±2; biases zero.

    timm's way for ViT, Swin, ConvNeXt, MetaFormer and MambaOut. Norms keep their ones and zeros.
    """
    for module in head.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def xavier_uniform(head: nn.Module) -> nn.Module:
    """Xavier-uniform weights, biases zero: timm's way for the MLP families.

    A module with `init_weights` (gMLP's gate) then begins as it wants to.
    """
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in head.modules():
        init_weights = getattr(module, "init_weights", None)
        if init_weights is not None:
            init_weights()
    return head

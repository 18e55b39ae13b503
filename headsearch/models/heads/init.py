"""How a head's weights begin: as timm begins the models that its blocks are from."""

from __future__ import annotations

import math

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


def normal_fan_out(head: nn.Module) -> nn.Module:
    """Convolutions from a normal of variance 2 over the outputs that an input reaches; biases zero.

    He et al. 2015, fan out, a group of channels for itself: timm's way for ResNet and EfficientNet,
    and VAN's.
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def normal_fan_in(head: nn.Module) -> nn.Module:
    """Weights from a normal of variance 1 over their inputs (LeCun et al. 1998); biases zero.

    A signal keeps its scale through them, with no norm or shortcut to bring it back. A module with
    `init_weights` (gMLP's gate) begins as it wants to.
    """
    for module in head.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in head.modules():
        init_weights = getattr(module, "init_weights", None)
        if init_weights is not None:
            init_weights()
    return head

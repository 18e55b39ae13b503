"""Weight initialisation of heads: the schemes that timm uses for the models the blocks are from."""

from __future__ import annotations

import math

from timm.layers import trunc_normal_
from torch import nn


def truncated_normal(head: nn.Module) -> nn.Module:
    """Weights from a normal with standard deviation 0.02, truncated at ±2; biases zero.

    timm does so for ViT, Swin, ConvNeXt, MetaFormer and MambaOut. Norms keep their ones and zeros.
    """
    for module in head.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def xavier_uniform(head: nn.Module) -> nn.Module:
    """Xavier-uniform weights and zero biases, as timm does for the MLP families.

    Modules with a method `init_weights` (gMLP's gate) then initialise themselves.
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
    """Convolution weights from a normal with variance 2 / fan-out (He et al. 2015); biases zero.

    The fan-out counts the outputs that one input reaches within its group of channels. timm does so
    for ResNet and EfficientNet, and the authors of VAN do too.
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def normal_fan_in(head: nn.Module) -> nn.Module:
    """Weights from a normal with variance 1 / fan-in (LeCun et al. 1998); biases zero.

    This keeps the scale of a signal without a norm or a shortcut. Modules with a method
    `init_weights` (gMLP's gate) then initialise themselves.
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

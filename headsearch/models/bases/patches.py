"""The convolution that makes patches of images, as one product.

Patches do not overlap, so their pixels side by side times the kernels are all there is to it.
Libraries find no fast way for the gradient of a convolution with three input channels: on an H200
it took 5 of the 78 ms of a step of ViT-S at 224 pixels. Weights, their names and their first values
are those of the convolution, and so is what comes out, up to rounding.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn


class PatchProduct(nn.Conv2d):
    """A convolution whose stride is its kernel's size, without padding."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Patches (B, D, rows, columns); pixels that fill no patch are left out."""
        (high, wide), (height, width) = self.kernel_size, images_BCHW.shape[2:]
        rows, columns = height // high, width // wide
        whole = images_BCHW[:, :, : rows * high, : columns * wide]
        pixels = whole.unflatten(3, (columns, wide)).unflatten(2, (rows, high))
        pixels_BYXK = pixels.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(pixels_BYXK, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def make_patches_by_products(trunk: nn.Module) -> None:
    """Has timm's patch embeddings compute as products, where their patches do not overlap."""
    for module in trunk.modules():
        if isinstance(module, PatchEmbed) and _makes_patches(module.proj):
            module.proj.__class__ = PatchProduct


def _makes_patches(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.stride == module.kernel_size
        and module.padding == (0, 0)
        and module.dilation == (1, 1)
        and module.groups == 1
    )

"""How far a block looks: mean attention distance, and the effective receptive field.

Dimensions: B images, S image side, A attention heads, T tokens with prefix, N patches, H × W grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from headsearch.models.bases import repeated_blocks


def attention_layers(trunk: nn.Module) -> list[Attention]:
    """timm's plain attention of each block, the earliest first.

    Empty unless every repeated block has exactly one such layer: windows, talking heads and
    channel attention have no distances that compare.
    """
    blocks = repeated_blocks(trunk)
    found = [[m for m in block.modules() if type(m) is Attention] for block in blocks]
    return [layers[0] for layers in found if layers] if all(len(x) == 1 for x in found) else []


def attention_distances(
    trunk: nn.Module, run: Callable[[], object], grid: tuple[int, int]
) -> Tensor | None:
    """The mean attention distance of each block, in patches: (blocks,); None if it has none.

    The distance between a patch and those it attends to, weighted by attention, averaged over
    patches, attention heads and images (Raghu et al. 2021, arXiv 2108.08810, section 4). Prefix
    tokens are left out, and the weights of the patches scaled to sum to 1.

    Args:
        trunk: the model.
        run: calls it on a batch.
        grid: rows and columns of its patches.
    """
    layers = attention_layers(trunk)
    if not layers:
        return None
    sums: list[Tensor] = []
    distance_NN = patch_distances(grid)

    def note(layer: Any, inputs: tuple[Tensor, ...], _output: object) -> None:
        weights_BATT = attention_weights(layer, inputs[0])
        patches = len(distance_NN)
        of_patches = weights_BATT[..., -patches:, -patches:]
        of_patches = of_patches / of_patches.sum(-1, keepdim=True)
        distances = (of_patches * distance_NN.to(of_patches)).sum(-1)
        sums.append(distances.mean().double().cpu())

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(sums)


def attention_weights(layer: Any, tokens_BTD: Tensor) -> Tensor:
    """The attention weights of timm's `Attention` on its input: (B, A, T, T), rows sum to 1."""
    count, tokens, _ = tokens_BTD.shape
    qkv = layer.qkv(tokens_BTD).reshape(count, tokens, 3, layer.num_heads, layer.head_dim)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    query, key = layer.q_norm(query), layer.k_norm(key)
    weights: Tensor = (query.float() * layer.scale @ key.float().transpose(-2, -1)).softmax(-1)
    return weights


def patch_distances(grid: tuple[int, int]) -> Tensor:
    """The Euclidean distance between the places of a grid, in places: (N, N)."""
    rows, columns = (torch.arange(size, dtype=torch.float32) for size in grid)
    places_N2 = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    return torch.cdist(places_N2, places_N2)


def field_radii(maps: Sequence[Tensor], images_BCSS: Tensor, *, sequence: bool = False) -> Tensor:
    """The radius of the effective receptive field of each map, in pixels: (maps,) float64.

    The field is |∂ Σ centre token / ∂ pixel|, summed over colours and averaged over images (Luo
    et al. 2016, arXiv 1701.04128); its radius is the root mean square distance of that mass from
    its own centre. The sum over the token's channels is taken with random signs, else a LayerNorm
    would make it 0.

    Args:
        maps: (B, D, H, W) each, computed from the images with gradients.
        images_BCSS: the input, which requires a gradient.
        sequence: whether columns are time steps, and distances count along them alone.
    """
    generator = torch.Generator().manual_seed(0)
    radii = []
    for map_BDHW in maps:
        height, width = map_BDHW.shape[-2:]
        token_BD = map_BDHW[:, :, height // 2, width // 2]
        signs_D = torch.randint(0, 2, token_BD.shape[1:], generator=generator) * 2.0 - 1
        (gradient_BCSS,) = torch.autograd.grad(
            (token_BD.float() * signs_D.to(token_BD.device)).sum(), images_BCSS, retain_graph=True
        )
        field_BSS = gradient_BCSS.abs().sum(dim=1)
        radii.append(radius(field_BSS.sum(dim=1, keepdim=True) if sequence else field_BSS))
    return torch.stack(radii)


def radius(field_BSS: Tensor) -> Tensor:
    """The root mean square distance of the mass of fields from its centre, in pixels: float64.

    The fields of all images are averaged first, each scaled to mass 1.
    """
    field_BSS = field_BSS.double().cpu()
    field_SS = (field_BSS / field_BSS.sum(dim=(1, 2), keepdim=True)).mean(0)
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in field_SS.shape)
    centre_row = (field_SS.sum(1) * rows).sum()
    centre_column = (field_SS.sum(0) * columns).sum()
    squares = (rows - centre_row).square()[:, None] + (columns - centre_column).square()
    return (field_SS * squares).sum().sqrt()

"""What a base looks at: its tokens as colours, and the shares of tokens in a class's logit.

Dimensions: B images, N tokens of an image, D width, C classes, H × W the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor


def principal_maps(tokens_BND: Tensor, components: int = 3) -> Tensor:
    """The first principal components of all tokens of some images: (B, N, components) float64.

    Each component is scaled to variance 1, so that none dominates the colours. Signs are arbitrary:
    `aligned` makes those of two models agree.
    """
    rows = tokens_BND.flatten(0, 1).double()
    rows = rows - rows.mean(0)
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    count = min(components, int((values > values[0] * 1e-9).sum()))
    maps = torch.zeros(len(rows), components, dtype=torch.float64)
    maps[:, :count] = left[:, :count] * len(rows) ** 0.5
    return maps.reshape(*tokens_BND.shape[:2], components)


def aligned(maps_BNK: Tensor, to_BNK: Tensor) -> Tensor:
    """Components rotated to those of another model: orthogonal Procrustes (Schönemann 1966)."""
    rows, target = maps_BNK.flatten(0, 1), to_BNK.flatten(0, 1)
    left, _, right = torch.linalg.svd(rows.T @ target)
    rotated: Tensor = rows @ (left @ right)
    return rotated.reshape(maps_BNK.shape)


def as_colours(maps_BNK: Tensor, grid: tuple[int, int]) -> Tensor:
    """Components as colours: (B, H, W, 3) in [0, 1]; two standard deviations fill the range."""
    colours = (maps_BNK / 4 + 0.5).clamp(0, 1)
    return colours.reshape(len(maps_BNK), *grid, maps_BNK.shape[-1])


def token_shares(
    tokens_BND: Tensor, weight_CD: Tensor, bias_C: Tensor, classes_B: Tensor
) -> Tensor:
    """What each token adds to the logit of a class: (B, N) float64; their sum is the logit.

    Exact, because the logit of a linear probe on the mean token is the mean of the tokens' own
    logits: w·mean(t) + b = Σ (w·t_i + b) / N.

    Args:
        tokens_BND: the tokens whose mean the probe reads.
        weight_CD, bias_C: of the probe.
        classes_B: the class of each image whose logit is shared out.
    """
    weight_BD, bias_B = weight_CD.double()[classes_B], bias_C.double()[classes_B]
    logits_BN = torch.einsum("bnd,bd->bn", tokens_BND.double(), weight_BD) + bias_B[:, None]
    return logits_BN / tokens_BND.shape[1]


def evidence_on(shares_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """The share of the evidence for a class that lies on an object: (B,); NaN without evidence.

    Evidence is what raises the logit: positive shares, after the mean over the image's tokens is
    taken off, since a constant says nothing of place.

    Args:
        shares_BN: from `token_shares`.
        mask_BN: how much of each token's patch the object covers, 0 to 1.
    """
    positive_BN = (shares_BN - shares_BN.mean(dim=1, keepdim=True)).clamp_min(0)
    return (positive_BN * mask_BN).sum(dim=1) / positive_BN.sum(dim=1)

"""How well a base's tokens predict those of a trained head: ridge regression, held-out R².

Dimensions: R rows (a row is one place of one image), D width of the base's tokens, H of the head's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.evaluation.proxies.linear import standardisation

RIDGE = 1e-4
"""The penalty, as a share of the number of rows: features are standardised, so 1e-4 shrinks only
directions with less than a ten-thousandth of a feature's variance."""


def token_rows(map_BDHW: Tensor, grid: tuple[int, int], places: Tensor) -> Tensor:
    """Some tokens of each image of a map: (B·P, D), image by image.

    Args:
        map_BDHW: any map.
        grid: rows and columns that the map is averaged to, so that places of maps of several
            resolutions mean the same part of an image.
        places: (P,) int64 indices of places in that grid.
    """
    if map_BDHW.shape[-2:] != grid:
        map_BDHW = F.adaptive_avg_pool2d(map_BDHW, grid)
    tokens_BND = map_BDHW.flatten(2).transpose(1, 2)
    return tokens_BND[:, places].flatten(0, 1)


def ridge_r2(base_RD: Tensor, head_RH: Tensor, fitted: int, penalty: float = RIDGE) -> float:
    """The share of the variance of the head's tokens that a linear map of the base's explains.

    Ridge regression on standardised features of the first rows; R² on the others, over all
    features of the head together: 1 − residual sum of squares / total sum of squares around the
    mean of the fitted rows. 1 for a linear map; 0 for unrelated tokens, or below it where the fit
    misleads.

    Args:
        base_RD, head_RH: tokens at the same places of the same images, in the same order.
        fitted: the rows that the regression is fitted to, from the first. No image may lie on both
            sides.
        penalty: weight of ‖W‖², times the number of fitted rows.
    """
    base_RD, head_RH = base_RD.double(), head_RH.double()
    mean_D, std_D = standardisation(base_RD[:fitted])
    base_RD = (base_RD - mean_D) / std_D
    offset_H = head_RH[:fitted].mean(0)
    known_RD, target_RH = base_RD[:fitted], head_RH[:fitted] - offset_H
    covariance_DD = known_RD.T @ known_RD
    covariance_DD.diagonal().add_(penalty * fitted)
    weight_DH = torch.linalg.solve(covariance_DD, known_RD.T @ target_RH)
    rest_RH = head_RH[fitted:] - offset_H
    residual = (rest_RH - base_RD[fitted:] @ weight_DH).square().sum()
    return float(1 - residual / rest_RH.square().sum())

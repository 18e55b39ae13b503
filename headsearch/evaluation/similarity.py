"""How similar two representations of the same images are: CKA, nearest neighbours, Procrustes.

One sample is one image. The tokens of an image are not independent: counted as samples, they make
unrelated networks look similar.

Every measure is computed from Gram matrices of centred features, in float64. The Gram matrix of a
subset of the images is then a sub-matrix, so a jackknife over images is cheap.

Dimensions: N images, B images of a batch, P and Q features of an image, D width of a token
(in `map_features`, N is the number of tokens of an image), S subsets of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.models.heads.padding import masked_mean

COLUMNS = 4096
"""Number of features that are converted to float64 at a time; limits the memory."""

NEIGHBOURS = 10
"""From Huh et al. 2024, *The Platonic Representation Hypothesis*, arXiv 2405.07987, appendix A."""


def map_features(tokens_BND: Tensor) -> Tensor:
    """The token map of each image as one feature vector: (B, N·D).

    Each token goes through a LayerNorm without parameters. The scale and the offset of the residual
    stream then have no effect, and a head that returns its input has discrepancy 0.
    """
    return _normalised(tokens_BND).flatten(1)


def pooled_map(tokens_BND: Tensor, valid_BHW: Tensor | None = None) -> Tensor:
    """The mean over the tokens of an image, each normalised as in `map_features`: (B, D).

    Tokens on padding, where `valid_BHW` is False, are left out.
    """
    return masked_mean(_normalised(tokens_BND), valid_BHW)


def _normalised(tokens_BND: Tensor) -> Tensor:
    return F.layer_norm(tokens_BND.float(), (tokens_BND.shape[-1],))


def gram(x_NP: Tensor) -> Tensor:
    """The Gram matrix X·Xᵀ of features centred over the images: (N, N) float64.

    Computed on the features' own device, in chunks of columns; on the CPU if the device has no
    float64.
    """
    device = torch.device("cpu") if x_NP.device.type == "mps" else x_NP.device
    gram_NN = torch.zeros(len(x_NP), len(x_NP), dtype=torch.float64, device=device)
    for columns in torch.split(x_NP, COLUMNS, dim=1):
        centred = columns.to(device).double()
        centred -= centred.mean(0)
        gram_NN.addmm_(centred, centred.T)
    return gram_NN


def _hsic1(k_NN: Tensor, l_NN: Tensor, kept_NS: Tensor) -> Tensor:
    """The unbiased HSIC of two Gram matrices with zero diagonals (Song et al. 2012, eq. 5): (S,).

    Computed for S subsets of the images at once; `kept_NS` is 1 for the images of a subset, else 0.
    Each sum over a subset is a product with its column, so all subsets cost little more than one.
    """
    n_S = kept_NS.sum(0)
    k_NS, l_NS = (kept_NS * (g_NN @ kept_NS) for g_NN in (k_NN, l_NN))
    total_S = (kept_NS * ((k_NN * l_NN) @ kept_NS)).sum(0)
    total_S = total_S + k_NS.sum(0) * l_NS.sum(0) / ((n_S - 1) * (n_S - 2))
    total_S = total_S - 2 * (k_NS * l_NS).sum(0) / (n_S - 2)
    return total_S / (n_S * (n_S - 3))


def cka_of_subsets(k_NN: Tensor, l_NN: Tensor, kept_SN: Tensor) -> Tensor:
    """`cka_of_grams` of several subsets of the images at once: (S,).

    Args:
        k_NN, l_NN: Gram matrices of all images.
        kept_SN: bool, the images that each subset keeps; at least 4 each.

    Raises:
        ValueError: a subset has fewer than 4 images.
    """
    fewest = int(kept_SN.sum(1).min())
    if fewest < 4:
        raise ValueError(f"Debiased CKA needs at least 4 images, but got {fewest}.")
    kept_NS = kept_SN.T.to(k_NN)
    # The unbiased estimator leaves out the pairs of an image with itself.
    k_NN, l_NN = (g.clone().fill_diagonal_(0) for g in (k_NN, l_NN))
    scale_S = (_hsic1(k_NN, k_NN, kept_NS) * _hsic1(l_NN, l_NN, kept_NS)).sqrt()
    return _hsic1(k_NN, l_NN, kept_NS) / scale_S


def cka_of_grams(k_NN: Tensor, l_NN: Tensor) -> Tensor:
    """Debiased linear CKA from two Gram matrices: 0-dimensional; see `debiased_linear_cka`."""
    return cka_of_subsets(k_NN, l_NN, torch.ones(1, len(k_NN), dtype=torch.bool))[0]


def debiased_linear_cka(x_NP: Tensor, y_NQ: Tensor) -> Tensor:
    """Debiased linear CKA of two sets of features of the same N ≥ 4 images: 0-dimensional float64.

    HSIC₁(K, L) / √(HSIC₁(K, K)·HSIC₁(L, L)) with the unbiased HSIC₁ of Song et al. 2012 (*Feature
    Selection via Dependence Maximization*, eq. 5), as in Nguyen et al. 2021 (arXiv 2010.15327,
    eq. 3). It is 1 for representations that are equal up to rotation, scale and offset. It averages
    0 for independent ones, so single values can be below 0. NaN if a representation is constant.
    """
    return cka_of_grams(gram(x_NP), gram(y_NQ))


def knn_overlap_of_grams(k_NN: Tensor, l_NN: Tensor) -> Tensor:
    """Mutual k-NN alignment (Huh et al. 2024, arXiv 2405.07987): a 0-dimensional tensor.

    For each image, the share of its 10 nearest neighbours (Euclidean) in one representation that
    are also among its 10 nearest in the other; the mean over images. 10 / (N − 1) is expected by
    chance.

    Raises:
        ValueError: 10 images or fewer.
    """
    n = len(k_NN)
    if n <= NEIGHBOURS:
        raise ValueError(f"Mutual k-NN needs more than {NEIGHBOURS} images, but got {n}.")
    if not (k_NN.isfinite().all() and l_NN.isfinite().all()):
        return k_NN.new_tensor(math.nan)  # else topk ranks NaN, and the head looks different

    def neighbours(g_NN: Tensor) -> Tensor:
        # |x − y|² − |x|²: |x|² is the same within a row, so it does not change the order.
        distances_NN = (g_NN.diagonal() - 2 * g_NN).fill_diagonal_(math.inf)
        nearest = distances_NN.topk(NEIGHBOURS, largest=False).indices
        return torch.zeros_like(g_NN, dtype=torch.bool).scatter_(1, nearest, True)

    return (neighbours(k_NN) & neighbours(l_NN)).sum().double() / (n * NEIGHBOURS)


def _root_sum(eigenvalues: Tensor) -> Tensor:
    """The sum of the square roots of ascending eigenvalues, leaving out rounding error."""
    noise = eigenvalues[-1] * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return eigenvalues[eigenvalues > noise].sqrt().sum()


@dataclass(frozen=True, eq=False)
class BaseGram:
    """The Gram matrix of a base, with what a measure needs of the base alone.

    Each derived part is computed at its first use and kept, so comparing many heads with one base
    computes it once.

    Attributes:
        gram_NN: (N, N) float64; see `gram`.
    """

    gram_NN: Tensor

    @cached_property
    def finite(self) -> bool:
        """Whether all entries are finite."""
        return bool(self.gram_NN.isfinite().all())

    @cached_property
    def centred_NN(self) -> Tensor:
        """The Gram matrix after centring the features."""
        return _centred(self.gram_NN)

    @cached_property
    def root_NN(self) -> Tensor:
        """A square root R of the centred Gram matrix K: R·Rᵀ = K. Needs finite entries."""
        values_N, vectors_NN = torch.linalg.eigh(self.centred_NN)
        # Rounding can make eigenvalues that should be 0 slightly negative.
        root_NN: Tensor = values_N.clamp_min(0).sqrt() * vectors_NN
        return root_NN


def procrustes_cosine(base: BaseGram, head_NN: Tensor) -> Tensor:
    """‖XᵀY‖₊ / (‖X‖·‖Y‖) of centred X and Y, ‖·‖₊ the nuclear norm: a 0-dimensional tensor.

    The cosine of the Procrustes angle between shapes (Williams et al. 2021, arXiv 2110.14739,
    eq. 5). The nuclear norm can be computed from the Gram matrices K and L of X and Y: the singular
    values of XᵀY are √eig(K½·L·K½). The root K½, half of the work, depends on the base alone.

    Args:
        base: of X.
        head_NN: Y's Gram matrix.
    """
    if not (base.finite and head_NN.isfinite().all()):
        return base.gram_NN.new_tensor(math.nan)
    k_NN, root_NN, l_NN = base.centred_NN, base.root_NN, _centred(head_NN)
    nuclear = _root_sum(torch.linalg.eigvalsh(root_NN.T @ l_NN @ root_NN))
    return nuclear / (k_NN.trace() * l_NN.trace()).sqrt()


def _centred(g_NN: Tensor) -> Tensor:
    """The Gram matrix after centring the features.

    `gram` centres over all images; the sub-matrix of a subset is no longer centred.
    """
    return g_NN - g_NN.mean(0) - g_NN.mean(1, keepdim=True) + g_NN.mean()


def dominant_share_of_gram(k_NN: Tensor) -> float:
    """`dominant_share`, from the Gram matrix of the features."""
    if not k_NN.isfinite().all():
        return math.nan
    return float(torch.linalg.eigvalsh(k_NN)[-1] / k_NN.trace())


def dominant_share(x_NP: Tensor) -> float:
    """The share of the variance over images that the first principal component holds.

    Near 1 (0.8, say), one direction decides CKA: two otherwise unrelated representations that
    share it get a high similarity. NaN for constant features.
    """
    return dominant_share_of_gram(gram(x_NP))


def prototype_kl(base_logits_NP: Tensor, head_logits_NP: Tensor, temperature: float) -> float:
    """The objective's own measure: KL(head ‖ base) of the prototype distributions, in nats.

    The mean over images. The base learns from the head with a cross-entropy, which is this
    divergence plus the entropy of the head's distribution; only the divergence is 0 when both
    agree. Both sides are treated alike: the mean over the images is subtracted from the logits (the
    optimum of DINO's centring), then the softmax is taken at `temperature`.

    Args:
        base_logits_NP, head_logits_NP: (N, P), of the same P prototypes, before any centring.
        temperature: above 0.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"Temperature must be above 0, but got {temperature=}.")
    base_NP, head_NP = (
        ((logits - logits.mean(0)) / temperature).log_softmax(1)
        for logits in (base_logits_NP.float(), head_logits_NP.float())
    )
    return float(F.kl_div(base_NP, head_NP, reduction="batchmean", log_target=True))

"""How alike two representations of the same images are.

Dimensions: N images, B images of a batch, P and Q features of an image, D width of a token
(in `map_features`, N is the tokens of an image). One sample is one image: the tokens of an image
are not independent, and counted as samples they make unrelated networks look alike.

Everything here works from Gram matrices of centred features, in float64: subsets of the images
are then sub-matrices, and a jackknife over images costs little.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

COLUMNS = 4096
"""Features that are held in float64 at a time."""

NEIGHBOURS = 10
"""Of Huh et al. 2024, *The Platonic Representation Hypothesis*, arXiv 2405.07987, appendix A."""


def map_features(tokens_BND: Tensor) -> Tensor:
    """A patch-token map as one sample an image: (B, N·D).

    Each token goes through a LayerNorm without parameters, so that neither scale nor offset of
    the residual stream counts, and a head that hands its input on does not differ from the base.
    """
    return F.layer_norm(tokens_BND.float(), (tokens_BND.shape[-1],)).flatten(1)


def gram(x_NP: Tensor) -> Tensor:
    """X·Xᵀ of the features centred over the images: (N, N) float64.

    On the features' own device, in chunks of columns; on the CPU where the device has no float64.
    """
    device = torch.device("cpu") if x_NP.device.type == "mps" else x_NP.device
    gram_NN = torch.zeros(len(x_NP), len(x_NP), dtype=torch.float64, device=device)
    for columns in torch.split(x_NP, COLUMNS, dim=1):
        centred = columns.to(device).double()
        centred -= centred.mean(0)
        gram_NN.addmm_(centred, centred.T)
    return gram_NN


def _hsic1(k_NN: Tensor, l_NN: Tensor, kept_NS: Tensor) -> Tensor:
    """The unbiased HSIC of two Grams with zero diagonals (Song et al. 2012, eq. 5): (S,).

    That of the images that each of S subsets keeps (1, else 0). Sums over a subset are products
    with its column, so that all of them together cost little more than one.
    """
    n_S = kept_NS.sum(0)
    k_NS, l_NS = (kept_NS * (g_NN @ kept_NS) for g_NN in (k_NN, l_NN))
    total_S = (kept_NS * ((k_NN * l_NN) @ kept_NS)).sum(0)
    total_S = total_S + k_NS.sum(0) * l_NS.sum(0) / ((n_S - 1) * (n_S - 2))
    total_S = total_S - 2 * (k_NS * l_NS).sum(0) / (n_S - 2)
    return total_S / (n_S * (n_S - 3))


def cka_of_subsets(k_NN: Tensor, l_NN: Tensor, kept_SN: Tensor) -> Tensor:
    """`cka_of_grams` of each subset of the images, all at once: (S,).

    Args:
        kept_SN: which images each subset keeps, bool.
    """
    fewest = int(kept_SN.sum(1).min())
    if fewest < 4:
        raise ValueError(f"Debiased CKA needs at least 4 images, but got {fewest}.")
    kept_NS = kept_SN.T.to(k_NN)
    k_NN, l_NN = (g.clone().fill_diagonal_(0) for g in (k_NN, l_NN))
    scale_S = (_hsic1(k_NN, k_NN, kept_NS) * _hsic1(l_NN, l_NN, kept_NS)).sqrt()
    return _hsic1(k_NN, l_NN, kept_NS) / scale_S


def cka_of_grams(k_NN: Tensor, l_NN: Tensor) -> Tensor:
    """Debiased linear CKA from two Grams; see `debiased_linear_cka`. A 0-dimensional tensor."""
    return cka_of_subsets(k_NN, l_NN, torch.ones(1, len(k_NN), dtype=torch.bool))[0]


def debiased_linear_cka(x_NP: Tensor, y_NQ: Tensor) -> Tensor:
    """Debiased linear CKA of two sets of features of the same N ≥ 4 images: 0-dimensional float64.

    HSIC₁(K, L) / √(HSIC₁(K, K)·HSIC₁(L, L)) with the unbiased HSIC₁ of Song et al. 2012 (*Feature
    Selection via Dependence Maximization*, eq. 5), as in Nguyen et al. 2021 (arXiv 2010.15327,
    eq. 3). 1 for equal representations up to rotation, scale and offset, 0 on average for
    independent ones, below 0 at times; NaN where a representation is constant.
    """
    return cka_of_grams(gram(x_NP), gram(y_NQ))


def knn_overlap_of_grams(k_NN: Tensor, l_NN: Tensor) -> Tensor:
    """Mutual k-NN alignment (Huh et al. 2024, arXiv 2405.07987): a 0-dimensional tensor.

    The mean share of an image's 10 nearest neighbours (Euclidean) in one representation that are
    also among its 10 nearest in the other. 10 / (N − 1) by chance.
    """
    n = len(k_NN)
    if n <= NEIGHBOURS:
        raise ValueError(f"Mutual k-NN needs more than {NEIGHBOURS} images, but got {n}.")
    if not (k_NN.isfinite().all() and l_NN.isfinite().all()):
        return k_NN.new_tensor(math.nan)  # topk would rank NaN, and the head look different

    def neighbours(g_NN: Tensor) -> Tensor:
        # |x − y|² less |x|², which is the same for all candidates of a row
        distances_NN = (g_NN.diagonal() - 2 * g_NN).fill_diagonal_(math.inf)
        nearest = distances_NN.topk(NEIGHBOURS, largest=False).indices
        return torch.zeros_like(g_NN, dtype=torch.bool).scatter_(1, nearest, True)

    return (neighbours(k_NN) & neighbours(l_NN)).sum().double() / (n * NEIGHBOURS)


def _root_sum(eigenvalues: Tensor) -> Tensor:
    """The sum of the square roots, without those that are rounding noise."""
    noise = eigenvalues[-1] * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return eigenvalues[eigenvalues > noise].sqrt().sum()


def procrustes_cosine_beside(k_NN: Tensor) -> Callable[[Tensor], Tensor]:
    """‖XᵀY‖₊ / (‖X‖·‖Y‖) of centred X and Y, ‖·‖₊ the nuclear norm: a 0-dimensional tensor.

    The cosine of Procrustes' angle between shapes (Williams et al. 2021, arXiv 2110.14739, eq. 5).
    The nuclear norm needs no features: XᵀY has the singular values √eig(K½·L·K½). The root, half of
    the work, is taken once for all Y.

    Args:
        k_NN: X's Gram.

    Returns:
        The cosine by Y's Gram.
    """
    finite = bool(k_NN.isfinite().all())
    k_NN = _centred(k_NN)
    if finite:
        values_N, vectors_NN = torch.linalg.eigh(k_NN)
        root_NN = values_N.clamp_min(0).sqrt() * vectors_NN

    def cosine(l_NN: Tensor) -> Tensor:
        if not (finite and l_NN.isfinite().all()):
            return k_NN.new_tensor(math.nan)
        l_NN = _centred(l_NN)
        nuclear = _root_sum(torch.linalg.eigvalsh(root_NN.T @ l_NN @ root_NN))
        return nuclear / (k_NN.trace() * l_NN.trace()).sqrt()

    return cosine


def _centred(g_NN: Tensor) -> Tensor:
    """The Gram of the same features centred: those of a subset of the images are not."""
    return g_NN - g_NN.mean(0) - g_NN.mean(1, keepdim=True) + g_NN.mean()


def dominant_share_of_gram(k_NN: Tensor) -> float:
    """`dominant_share` from the Gram of the features."""
    if not k_NN.isfinite().all():
        return math.nan
    return float(torch.linalg.eigvalsh(k_NN)[-1] / k_NN.trace())


def dominant_share(x_NP: Tensor) -> float:
    """The share of the variance over images that lies in the first principal component.

    Near 1 (0.8, say), one direction decides CKA: two otherwise unrelated representations that
    share it score as alike. NaN for constant features.
    """
    return dominant_share_of_gram(gram(x_NP))


def prototype_kl(base_logits_NP: Tensor, head_logits_NP: Tensor, temperature: float) -> float:
    """The objective's own measure: KL(head ‖ base) of prototype distributions, in nats an image.

    The cross-entropy with which the base learns from the head is this plus the head's own
    entropy; only this part is 0 when both agree. Both sides get the same treatment: each one's
    mean over the images is subtracted (the centring of DINO, at its optimum), then the softmax at
    `temperature`.

    Args:
        base_logits_NP, head_logits_NP: (N, P), the same P prototypes, before any centring.
        temperature: above 0.
    """
    if not temperature > 0:
        raise ValueError(f"Temperature must be above 0, but got {temperature=}.")
    base_NP, head_NP = (
        ((logits - logits.mean(0)) / temperature).log_softmax(1)
        for logits in (base_logits_NP.float(), head_logits_NP.float())
    )
    return float(F.kl_div(base_NP, head_NP, reduction="batchmean", log_target=True))

"""Detection of collapsed representations, which look maximally different but carry no information.

Dimensions: N images, D width, P prototypes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RANK_SHARE = 0.1
"""Collapse is an effective rank below this share of the largest possible rank …"""
BASE_SHARE = 0.25
"""… or, if that is less, below this share of the base's rank on the same images. The same share
applies to the information that the prototypes carry."""
LEAST_RANK = 2.0
"""An effective rank below this is collapse whatever the base's is: one direction dominates."""
LEAST_PROTOTYPES = 2.0
"""The effective number of prototypes, e^entropy, below which all images share one prototype."""
INFORMATION_SHARE = 0.01
"""The share of ln P below which the prototypes carry no information about the image."""


def effective_rank(x_ND: Tensor) -> float:
    """RankMe: the exponential of the entropy of the singular values, normalised to sum 1.

    Between 1 and min(N, D). Garrido et al. 2023, arXiv 2210.02885, eq. 1–2, without the ε that the
    paper adds to each share. The features are NOT centred, as in the paper. The output of a
    collapsed network is one large constant plus small noise. Uncentred, the constant dominates and
    the rank is near 1. Centring would remove the constant and leave the noise, whose rank is high:
    95 of 192 for a collapsed head whose uncentred rank is 2.3. A healthy network with an offset
    loses little rank by it, because its spread over images is as large as its offset.

    0 if all features are 0, NaN if any is not finite.
    """
    if not x_ND.isfinite().all():
        return math.nan
    # mps has no float64
    device = torch.device("cpu") if x_ND.device.type == "mps" else x_ND.device
    values = torch.linalg.svdvals(x_ND.to(device).double())
    if not values.any():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def prototype_entropies(logits_NP: Tensor, temperature: float) -> tuple[float, float]:
    """The entropy of the mean prototype distribution, and the mean entropy over images: nats.

    Both lie in 0 to ln P, and the second is never above the first. Their difference is the
    information that the prototypes carry about the image. It is 0 in every kind of collapse: one
    prototype for all images, a uniform distribution for each image, or the same mixture for all
    images.

    Args:
        logits_NP: (N, P), minus the teacher's centre if it has one.
        temperature: the teacher's, above 0. The higher temperature of the student flattens
            untrained distributions so much that they look collapsed.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"Temperature must be above 0, but got {temperature=}.")
    shares_NP = (logits_NP.float() / temperature).softmax(1)
    entropy_of_mean = torch.special.entr(shares_NP.mean(0)).sum()
    mean_entropy = torch.special.entr(shares_NP).sum(1).mean()
    return float(entropy_of_mean), float(mean_entropy)


def collapse_reason(
    effective_rank: float,
    width: int,
    prototype_entropy: float | None = None,
    prototypes: int | None = None,
    *,
    images: int | None = None,
    base_rank: float | None = None,
    image_entropy: float | None = None,
    base_information: float | None = None,
) -> str | None:
    """Why a head counts as collapsed, in a few words; None if it does not.

    The checks, in this order:
    - an effective rank below 10 % of the largest possible one, min(width, images). A network that
      has trained for a few hundred steps can lie below that without being collapsed (5 to 17 of 192
      measured after 200 steps). So if the base's own rank is known, the limit is at most a quarter
      of it. A rank below 2 is always collapse.
    - an entropy of the mean prototype distribution below ln 2: all images share one prototype.
    - prototypes that carry no information about the image: `prototype_entropy − image_entropy`
      below 1 % of ln P and, if the base's is known, below a quarter of it, because early in a run
      prototypes carry little information everywhere. Without `image_entropy` this is not checked:
      an entropy of the mean near ln P can be a uniform collapse or an even, healthy use of all
      prototypes.

    Do not call this for an untrained head (rung 0), which cannot have collapsed yet.

    Args:
        effective_rank: of the head's pooled output (N, D); see `effective_rank`.
        width: D.
        prototype_entropy, image_entropy: nats; see `prototype_entropies`.
        prototypes: P; needed with either entropy.
        images: N, if it may be below the width.
        base_rank: the effective rank of the base's pooled output on the same images.
        base_information: nats; the same difference of entropies for the base's prototypes.

    Raises:
        ValueError: an entropy without the number of prototypes.
    """
    limit = RANK_SHARE * (width if images is None else min(width, images))
    if base_rank is not None and math.isfinite(base_rank):
        limit = min(limit, BASE_SHARE * base_rank)
    # "not >=" instead of "<", here and below: NaN counts as collapse.
    if not effective_rank >= max(limit, LEAST_RANK):
        of_base = "" if base_rank is None else f", base {base_rank:.3g}"
        return f"effective rank {effective_rank:.3g} of {width}{of_base}"
    if prototype_entropy is None:
        return None
    if prototypes is None or prototypes < 2:
        raise ValueError(f"An entropy needs its prototypes, 2 or more, but got {prototypes=}.")
    largest = math.log(prototypes)
    if not prototype_entropy >= math.log(LEAST_PROTOTYPES):
        return f"prototype entropy {prototype_entropy:.3f} of {largest:.3g}"
    if image_entropy is not None:
        information = prototype_entropy - image_entropy
        least = INFORMATION_SHARE * largest
        if base_information is not None and math.isfinite(base_information):
            least = min(least, BASE_SHARE * base_information)
        if not information >= least:
            return f"prototypes carry {max(information, 0.0):.3f} of {largest:.3g} nats"
    return None

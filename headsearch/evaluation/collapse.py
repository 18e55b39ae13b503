"""Whether a representation has collapsed: what looks maximally different because it says nothing.

Dimensions: N images, D width, P prototypes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RANK_SHARE = 0.1
"""The effective rank that is taken for collapse, as a share of the largest that is possible…"""
BASE_SHARE = 0.25
"""… and, where that is less, as a share of the base's own on the same images. Of the information
that prototypes carry, likewise."""
LEAST_RANK = 2.0
"""An effective rank under this is collapse whatever the base's is: one direction decides."""
LEAST_PROTOTYPES = 2.0
"""The effective number of prototypes, e^entropy, below which all images share one."""
INFORMATION_SHARE = 0.01
"""What the prototypes tell about the image, of the most they could (ln P), under which it is
nothing."""


def effective_rank(x_ND: Tensor) -> float:
    """RankMe: e to the entropy of the singular values, normalised to sum 1. 1 to min(N, D).

    Garrido et al. 2023, arXiv 2210.02885, eq. 1–2, without the ε that the paper adds to each
    share. The features are NOT centred, as in the paper, and for a reason: a collapsed network
    returns one large constant and a remainder of small noise. Uncentred, the constant is all
    there is, and the rank is near 1. Centred, the noise is all that is left, and the rank of
    noise is high: 95 of 192 for a collapsed head whose uncentred rank is 2.3. An honest network
    with an offset loses little by it: its spread over images is as large as its offset.

    0 if all features are 0, NaN if any is not finite.
    """
    if not x_ND.isfinite().all():
        return math.nan
    device = torch.device("cpu") if x_ND.device.type == "mps" else x_ND.device
    values = torch.linalg.svdvals(x_ND.to(device).double())
    if not values.any():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def prototype_entropies(logits_NP: Tensor, temperature: float) -> tuple[float, float]:
    """The entropy of the mean prototype distribution, and the mean entropy of an image's: nats.

    Both lie in 0 to ln P, the second never above the first. Their difference is the information
    that the prototypes carry about the image: 0 in every kind of collapse (one prototype for all
    images; no preference in any; the same mixture for all).

    Args:
        logits_NP: (N, P), less the teacher's centre if it has one.
        temperature: the teacher's, above 0. A student's higher one flattens untrained
            distributions so far that they look collapsed.
    """
    if not temperature > 0:
        raise ValueError(f"Temperature must be above 0, but got {temperature=}.")
    shares_NP = (logits_NP.float() / temperature).softmax(1)
    of_mean = torch.special.entr(shares_NP.mean(0)).sum()
    of_images = torch.special.entr(shares_NP).sum(1).mean()
    return float(of_mean), float(of_images)


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

    Flags, in this order:
    - an effective rank under 10 % of the largest possible, min(width, images). A network that has
      trained for a few hundred steps legitimately lies below that (5 to 17 of 192 measured after
      200 steps), so where the base's own rank is known, the limit is at most a quarter of it;
      under 2 is always collapse.
    - an entropy of the mean prototype distribution under ln 2: all images on one prototype.
    - prototypes that say nothing about the image, `prototype_entropy − image_entropy` under 1 %
      of ln P, and under a quarter of what the base's own say where that is known: early in a run
      they say little anywhere. Without `image_entropy` the upper end is not judged: an entropy of
      the mean near ln P is what a flat collapse and an even, healthy use of all prototypes have in
      common.

    Do not ask about an untrained head (rung 0): there is nothing to collapse yet.

    Args:
        effective_rank: of the head's pooled output (N, D); `effective_rank`.
        width: D.
        prototype_entropy, image_entropy: nats; `prototype_entropies`.
        prototypes: P; needed with either entropy.
        images: N, if it may be below the width.
        base_rank: the effective rank of the base's pooled output on the same images.
        base_information: nats; the same difference of entropies, of the base's prototypes.
    """
    limit = RANK_SHARE * (width if images is None else min(width, images))
    if base_rank is not None and math.isfinite(base_rank):
        limit = min(limit, BASE_SHARE * base_rank)
    if not effective_rank >= max(limit, LEAST_RANK):
        beside = "" if base_rank is None else f", base {base_rank:.3g}"
        return f"effective rank {effective_rank:.3g} of {width}{beside}"
    if prototype_entropy is None:
        return None
    if prototypes is None or prototypes < 2:
        raise ValueError(f"An entropy needs its prototypes, 2 or more, but got {prototypes=}.")
    most = math.log(prototypes)
    if not prototype_entropy >= math.log(LEAST_PROTOTYPES):
        return f"prototype entropy {prototype_entropy:.3f} of {most:.3g}"
    if image_entropy is not None:
        information = prototype_entropy - image_entropy
        least = INFORMATION_SHARE * most
        if base_information is not None and math.isfinite(base_information):
            least = min(least, BASE_SHARE * base_information)
        if not information >= least:
            return f"prototypes carry {max(information, 0.0):.3f} of {most:.3g} nats"
    return None

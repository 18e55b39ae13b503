"""Linear probe: logistic regression on frozen features.

Dimensions: N images of the bank, M queries, D features, C classes, R principal axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

L2 = 1e-2
"""The weight of the penalty, by default."""


@dataclass(frozen=True)
class LinearScores:
    """What a linear probe says about the queries.

    Attributes:
        present_K: int64, the classes that the bank contains, K of the C.
        logits_KM: of these classes, up to a constant a query.
    """

    present_K: Tensor
    logits_KM: Tensor

    def predicted(self) -> Tensor:
        """The class of each query: (M,) int64."""
        return self.present_K[self.logits_KM.argmax(0)]

    def best(self, count: int) -> Tensor | None:
        """The `count` likeliest classes of each query, likeliest first: (M, count) int64.

        None where the bank has no more classes than that: every query would be right.
        """
        if len(self.present_K) <= count:
            return None
        return self.present_K[self.logits_KM.topk(count, dim=0).indices].T


def linear_predict(
    bank_ND: Tensor,
    bank_labels_N: Tensor,
    queries_MD: Tensor,
    classes: int,
    l2: float = L2,
    max_iterations: int = 200,
) -> Tensor:
    """The classes of the queries by a linear probe on the bank: (M,) int64; see `linear_scores`."""
    return linear_scores(
        bank_ND, bank_labels_N, queries_MD, classes, l2, max_iterations
    ).predicted()


def linear_scores(
    bank_ND: Tensor,
    bank_labels_N: Tensor,
    queries_MD: Tensor,
    classes: int,
    l2: float = L2,
    max_iterations: int = 200,
) -> LinearScores:
    """The logits of the queries by a linear probe that is fitted on the bank.

    Multinomial logistic regression on features standardised by the bank: the minimum of mean
    cross-entropy + l2/2·‖W‖², without a penalty on the biases. That is scikit-learn's
    LogisticRegression with C = 1 / (l2·N). Deterministic: full-batch L-BFGS from zero, until the
    gradient (of the rescaled problem) is below 1e-6 or `max_iterations` are done. A class that the
    bank does not contain is never predicted.

    Args:
        bank_ND, queries_MD: features.
        bank_labels_N: int64, 0 to classes − 1.
        classes: C.
        l2: weight of the penalty, above 0.
        max_iterations: of L-BFGS.

    Raises:
        ValueError: `l2` is not above 0.
    """
    if not l2 > 0:
        raise ValueError(f"l2 must be above 0, but got {l2=}.")
    assert int(bank_labels_N.max()) < classes
    dtype = torch.float32 if bank_ND.device.type == "mps" else torch.float64
    # The optimal bias of an absent class is −∞, which no iteration reaches: leave such classes out.
    present_C, target_N = torch.unique(bank_labels_N, return_inverse=True)
    bank_ND, queries_MD = bank_ND.to(dtype), queries_MD.to(dtype)
    mean_D = bank_ND.mean(0)
    std_D = bank_ND.std(0, correction=0)
    # A constant feature varies by rounding error only, which must not be scaled to variance 1.
    std_D = torch.where(std_D > 1e-6 * (mean_D.abs() + std_D), std_D, torch.inf)
    bank_ND, queries_MD = (bank_ND - mean_D) / std_D, (queries_MD - mean_D) / std_D

    # The weights lie in the span of the bank's rows, so min(N, D) directions suffice. Böhning's
    # bound (1992): the Hessian is at most ½·XᵀX/N + l2. Rotated and scaled by the inverse root of
    # that bound, the problem is well conditioned whatever the spectrum of the features.
    values_R, axes_DR = _principal_axes(bank_ND)
    scale_R = (values_R / 2 + l2).rsqrt()
    rotated_NR = bank_ND @ axes_DR * scale_R
    penalty_R = l2 * scale_R.square()

    # Classes are rows: few rows times a large matrix is twice as fast as the transposed product.
    target_CN = F.one_hot(target_N, len(present_C)).T.to(dtype).contiguous()
    weight_CR = rotated_NR.new_zeros(len(present_C), rotated_NR.shape[1], requires_grad=True)
    bias_C1 = rotated_NR.new_zeros(len(present_C), 1, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_CR, bias_C1],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=1e-6,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> Tensor:
        """The loss; sets its gradient, softmax minus target, without autograd."""
        logits_CN = torch.addmm(bias_C1, weight_CR, rotated_NR.T)
        logits_CN -= logits_CN.amax(0)  # keeps exp from overflowing
        powers_CN = logits_CN.exp()
        sums_N = powers_CN.sum(0)
        entropy = (sums_N.log().sum() - (logits_CN * target_CN).sum()) / len(target_N)
        error_CN = (powers_CN / sums_N - target_CN) / len(target_N)
        weight_CR.grad = torch.addcmul(error_CN @ rotated_NR, penalty_R, weight_CR)
        bias_C1.grad = error_CN.sum(1, keepdim=True)
        return entropy + (penalty_R * weight_CR.square()).sum() / 2

    solver.step(closure)
    with torch.no_grad():
        logits_CM = torch.addmm(bias_C1, weight_CR, (queries_MD @ axes_DR * scale_R).T)
    return LinearScores(present_C, logits_CM)


def _principal_axes(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues (R,) of XᵀX/N that are not 0, and their axes (D, R); R ≤ min(N, D)."""
    count, width = x_ND.shape
    gram = (x_ND.T @ x_ND if width <= count else x_ND @ x_ND.T) / count
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values[-1] * 1e-12  # the rest is rounding error
    values, vectors = values[kept], vectors[:, kept]
    return values, vectors if width <= count else x_ND.T @ vectors / (count * values).sqrt()

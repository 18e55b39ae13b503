"""The head family `ssm`: token mixing by a diagonal linear state space model (S4D).

A map of several rows is read row by row, each row from left to right: the order of `TokenBlocks`.

Shape suffixes: B batch, N tokens, D width, P pairs of complex states of a channel, R directions,
V = N + 1 frequencies.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.models.heads.attention import token_head, vit_blocks
from headsearch.models.heads.family import CAUSAL, DEPTH, MLP_RATIO, Family, Grid, Parameter
from headsearch.models.heads.shortcuts import SHORTCUTS

STEPS = (0.001, 0.1)
"""The range of the first step sizes, as published."""


class StateSpace(nn.Module):
    """S4D (Gu, Gupta, Goel & Ré 2022, arXiv 2206.11893), then GELU and a linear map.

    Each channel has states x′ = A·x + u with a diagonal A in the left half plane, and the output
    y = 2·Re(C·x) + S·u. States come in conjugate pairs, of which one is stored. A zero-order hold
    of step Δ turns this into a convolution with the kernel
    K(n) = 2·Re Σ C · (exp(ΔA) − 1)/A · exp(nΔA), which is computed by an FFT in float32. First
    weights are those of S4D-Lin: A = −½ + iπp for the pair p, C complex normal, Δ log-uniform in
    `STEPS`.

    Args:
        dim: D, the width of the tokens.
        state: the number of states of a channel, an even number.
        causal: whether an output depends on the tokens so far only. Otherwise a second kernel, with
            a C of its own, runs over the tokens from the last to the first.

    Attributes:
        valid_BHW: bool; True where the map holds data: other tokens count as zero. None if all do.
    """

    valid_BHW: Tensor | None = None

    def __init__(self, dim: int, state: int, causal: bool) -> None:
        super().__init__()
        pairs = state // 2
        low, high = (math.log(step) for step in STEPS)
        # Weight decay leaves out parameters of one axis. It would change what Δ and A mean.
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(dim))
        self.log_decay = nn.Parameter(torch.full((dim * pairs,), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(pairs).repeat(dim).float())
        self.skip = nn.Parameter(torch.ones(dim))
        directions = 1 if causal else 2
        self.readout = nn.Parameter(torch.randn(directions, dim, pairs, 2) * math.sqrt(0.5))
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BND: Tensor, **unused: object) -> Tensor:
        inputs_BND = tokens_BND.to(self.skip.dtype)  # PyTorch has no FFT in bfloat16
        if self.valid_BHW is not None:
            inputs_BND = inputs_BND * self.valid_BHW.flatten(1).unsqueeze(-1)
        length = inputs_BND.shape[1]
        # Twice the length, so that the circular convolution of the FFT does not wrap around.
        kernel_DV = torch.fft.rfft(self._circular(self.kernels(length)))
        waves_BDV = torch.fft.rfft(inputs_BND.transpose(1, 2), n=2 * length) * kernel_DV
        mixed_BDN = torch.fft.irfft(waves_BDV, n=2 * length)[..., :length]
        mixed_BND = mixed_BDN.transpose(1, 2) + self.skip * inputs_BND
        output_BND: Tensor = self.proj(F.gelu(mixed_BND))
        return output_BND

    def kernels(self, length: int) -> Tensor:
        """The kernel of each direction, (R, D, N), for distances from 0 to `length` − 1."""
        step_D1 = self.log_step.exp().unsqueeze(-1)
        decay_DP, frequency_DP = (
            part.view(len(step_D1), -1) for part in (self.log_decay.exp(), self.frequency)
        )
        poles_DP = torch.complex(-decay_DP, frequency_DP)
        gain_DP = ((step_D1 * poles_DP).exp() - 1) / poles_DP
        distances_N = torch.arange(length, device=step_D1.device)
        factors_DPN = ((step_D1 * poles_DP).unsqueeze(-1) * distances_N).exp()
        readout_RDP = torch.view_as_complex(self.readout) * gain_DP
        return 2 * torch.einsum("rdp,dpn->rdn", readout_RDP, factors_DPN).real

    def _circular(self, kernels_RDN: Tensor) -> Tensor:
        """One kernel (D, 2N) for both directions: negative distances lie at its end."""
        length = kernels_RDN.shape[-1]
        kernel = F.pad(kernels_RDN[0], (0, length))
        if len(kernels_RDN) > 1:
            kernel = kernel + F.pad(kernels_RDN[1].flip(-1), (length, 0)).roll(1, -1)
        return kernel


def build_ssm(
    dim: int,
    grid: Grid,
    *,
    depth: int,
    state: int,
    mlp_ratio: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """ViT blocks with a diagonal linear state space model (S4D) in place of attention.

    Each channel has states x′ = A·x + u with a diagonal complex A, and the output
    y = 2·Re(C·x) + S·u. Over the tokens, row by row, this is a long convolution. It runs in both
    directions, or forwards only (`causal`).

    Source: Gu, Gupta, Goel and Ré, *On the Parameterization and Initialization of Diagonal State
    Space Models*, NeurIPS 2022, https://arxiv.org/abs/2206.11893.

    Shapes: blocks take and return tokens (B, N, D); a channel has `state` / 2 pairs of complex
    states.
    """
    blocks: list[Any] = vit_blocks(dim, depth, mlp_ratio)
    for block in blocks:
        block.attn = StateSpace(dim, state, causal)
    return token_head(blocks, **shortcuts)


SSM = Family(
    "ssm",
    "linear states that fade and oscillate along the tokens",
    build_ssm,
    {
        "depth": DEPTH,
        "state": Parameter(
            "int",
            32,
            "states of a channel, in conjugate pairs; an odd number counts as the even one below",
            "s{}",
            low=2,
            high=256,
            nearest=lambda state, dim: int(state) // 2 * 2,
        ),
        "mlp_ratio": MLP_RATIO,
        **SHORTCUTS,
        "causal": CAUSAL,
    },
)

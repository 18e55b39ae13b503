"""Recurrent head families: LSTM and GRU, which read the tokens one after another.

A map of several rows is read row by row, each row from left to right: the order of `TokenBlocks`.

Shape suffixes: B batch, N tokens, D width, E width of the recurrent state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from headsearch.models.heads.attention import token_head, vit_blocks
from headsearch.models.heads.family import CAUSAL, DEPTH, MLP_RATIO, Family, Grid
from headsearch.models.heads.shortcuts import SHORTCUTS


class Recurrence(nn.Module):
    """Token mixing by a recurrent layer in both directions, or forwards only, then a linear map.

    Each direction has half of the width; the only one has all of it. It runs in float32 under
    autocast, since not every CPU has recurrent layers in bfloat16.

    Args:
        dim: D, the width of the tokens.
        layer: `nn.LSTM` or `nn.GRU`.
        causal: whether it reads forwards only, so that an output depends on the tokens so far.

    Attributes:
        valid_BHW: bool; True where the map holds data: the other tokens are not read. None if all
            do.
    """

    valid_BHW: Tensor | None = None

    def __init__(self, dim: int, layer: type[nn.LSTM] | type[nn.GRU], causal: bool) -> None:
        super().__init__()
        width = dim if causal else max(1, dim // 2)
        self.onward = layer(dim, width, batch_first=True)
        self.backward = None if causal else layer(dim, width, batch_first=True)
        self.proj = nn.Linear(width if causal else 2 * width, dim)

    def forward(self, tokens_BND: Tensor, **unused: object) -> Tensor:
        device = tokens_BND.device.type
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):
            read_BNE = self._read(tokens_BND.to(self.proj.weight.dtype))
        mixed_BND: Tensor = self.proj(read_BNE)
        return mixed_BND

    def _read(self, tokens_BND: Tensor) -> Tensor:
        """The states after each token, of both directions."""
        if self.valid_BHW is None:
            states = [_states(self.onward, tokens_BND)]
            if self.backward is not None:
                states.append(_states(self.backward, tokens_BND.flip(1)).flip(1))
            return torch.cat(states, dim=-1)
        # Valid tokens first, in their order. Gathering needs no lengths on the host, unlike
        # PyTorch's packed sequences, for which it would have to wait for the device.
        valid_BN = self.valid_BHW.flatten(1)
        order_BN = torch.argsort((~valid_BN).to(torch.uint8), dim=1, stable=True)
        tokens_BND = _reordered(tokens_BND, order_BN)
        states = [_states(self.onward, tokens_BND)]
        if self.backward is not None:
            # Reverses the valid tokens among themselves; it is its own inverse.
            places_N = torch.arange(tokens_BND.shape[1], device=tokens_BND.device)
            back_BN = (valid_BN.sum(1, keepdim=True) - 1 - places_N) % len(places_N)
            backward_BNE = _states(self.backward, _reordered(tokens_BND, back_BN))
            states.append(_reordered(backward_BNE, back_BN))
        return _reordered(torch.cat(states, dim=-1), torch.argsort(order_BN, dim=1))


def _states(layer: nn.LSTM | nn.GRU, tokens_BND: Tensor) -> Tensor:
    """The states (B, N, E) of one direction."""
    if not tokens_BND.is_meta:
        states_BNE: Tensor = layer(tokens_BND)[0]
        return states_BNE
    # On the meta device, where costs are counted, PyTorch takes the tokens one by one, which lasts
    # seconds. The same products for all tokens at once have the same cost.
    states_BNE = tokens_BND.new_empty(*tokens_BND.shape[:2], layer.hidden_size)
    of_input, of_state = (layer.get_parameter(f"weight_{part}_l0") for part in ("ih", "hh"))
    return (tokens_BND @ of_input.T + states_BNE @ of_state.T)[..., : layer.hidden_size]


def _reordered(tokens_BND: Tensor, order_BN: Tensor) -> Tensor:
    """Token n becomes the token `order_BN[:, n]`."""
    return tokens_BND.gather(1, order_BN.unsqueeze(-1).expand_as(tokens_BND))


def build_recurrent(
    layer: type[nn.LSTM] | type[nn.GRU],
    dim: int,
    grid: Grid,
    *,
    depth: int,
    mlp_ratio: float,
    causal: bool = False,
    **shortcuts: bool,
) -> nn.Module:
    """ViT blocks with a recurrent layer in place of attention; see `build_lstm`.

    Recurrent weights are PyTorch's first ones.
    """
    blocks: list[Any] = vit_blocks(dim, depth, mlp_ratio)
    for block in blocks:
        block.attn = Recurrence(dim, layer, causal)
    return token_head(blocks, **shortcuts)


def build_lstm(dim: int, grid: Grid, **parameters: Any) -> nn.Module:
    """ViT blocks with a long short-term memory (LSTM) in place of attention.

    It reads the tokens row by row, each row from left to right, in both directions with half of the
    width each, or forwards only with all of it (`causal`). A linear map follows.

    Source: Tatsunami and Taki, *Sequencer: Deep LSTM for Image Classification*, NeurIPS 2022,
    https://arxiv.org/abs/2205.01972, its variant with one sequence of all tokens ("vanilla"); the
    layer is that of Hochreiter and Schmidhuber, *Long Short-Term Memory*, Neural Computation 1997.

    Shapes: blocks take and return tokens (B, N, D).
    """
    return build_recurrent(nn.LSTM, dim, grid, **parameters)


def build_gru(dim: int, grid: Grid, **parameters: Any) -> nn.Module:
    """ViT blocks with gated recurrent units (GRU) in place of attention.

    They read the tokens as the family `lstm` does.

    Source: Cho et al., *Learning Phrase Representations using RNN Encoder–Decoder for Statistical
    Machine Translation*, EMNLP 2014, https://arxiv.org/abs/1406.1078; the blocks are those of
    Sequencer, https://arxiv.org/abs/2205.01972.

    Shapes: blocks take and return tokens (B, N, D).
    """
    return build_recurrent(nn.GRU, dim, grid, **parameters)


PARAMETERS = {"depth": DEPTH, "mlp_ratio": MLP_RATIO, **SHORTCUTS, "causal": CAUSAL}
LSTM = Family("lstm", "a memory that reads token by token", build_lstm, PARAMETERS)
GRU = Family("gru", "a gated state that reads token by token", build_gru, PARAMETERS)

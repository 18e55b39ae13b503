"""`TextBase`: a transformers model on token ids, with the output that heads and objectives read.

Models are built from configurations with random weights, or read from a folder with `config.json`
and safetensors. Nothing is loaded from the hub, no code of a folder is run, no pickle is read.

Shapes: B texts, L tokens, D width. Maps are (B, D, 1, L).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headsearch.config.base_names import TRANSFORMERS
from headsearch.config.text_views import NOISE_LEVELS
from headsearch.errors import UserError
from headsearch.models.bases.base import WHOLE, Base, BaseOutput
from headsearch.models.bases.shapes import REFUSALS, first_line
from headsearch.models.bases.transformers_models import (
    build_model,
    maps_of,
    outputs_of,
    transformers,
)
from headsearch.models.bases.trunk import make_deterministic, repeated_blocks
from headsearch.models.heads.padding import masked_mean

ATTENTION = "sdpa_of_headsearch"
"""The name of our implementation of attention in transformers."""
PROBE_TOKENS, TOLERANCE = 8, 1e-4
"""Length of the texts on which a model is tried, and the largest difference that is rounding."""


class TextBase(Base):
    """A transformers model with the interface of `Base`: token ids to maps of one row.

    All random parts of the model are switched off. What the maps hold behind the end of a text has
    no meaning.

    Args:
        trunk: a model of transformers without a task head.

    Attributes:
        trunk: the model; the names of its parameters do not change.
        mask_token: parameter that replaces the embedding of a masked token.
    """

    mask_token: nn.Parameter

    def __init__(self, trunk: Any) -> None:
        nn.Module.__init__(self)
        self.trunk, self.reading = trunk, WHOLE
        if hasattr(trunk, "pooler"):
            trunk.pooler = None  # its output would be used by no one
        self.mask_token = nn.Parameter(torch.zeros(_embedding_of(trunk).embedding_dim))
        self._pad_id = pad_id_of(trunk.config)
        make_deterministic(trunk)

    def forward(
        self,
        texts: Tensor,
        mask_B1L: Tensor | None = None,
        feature_indices: Sequence[int] = (0,),
    ) -> BaseOutput:
        """Computes maps, tokens and the feature of texts: the mean of their tokens.

        Args:
            texts: token ids (B, L), int64, -1 behind the end of a text; or views (B, 2, L) of
                texts, with the noise of each token as the second row (see `make_text_views`).
            mask_B1L: bool; True for tokens to hide from the base.
            feature_indices: the maps to return, counted from the last; must contain 0.
        """
        ids_BL, noise_BL = (texts, None) if texts.ndim == 2 else texts.unbind(1)
        valid_B1L = (ids_BL >= 0).unsqueeze(1)
        last = 1 + max(feature_indices)
        with (
            self._changed_embeddings(mask_B1L, noise_BL),
            outputs_of(layers_of(self.trunk), last) as outputs,
        ):
            output = self.trunk(
                input_ids=torch.where(valid_B1L[:, 0], ids_BL, self._pad_id),
                attention_mask=valid_B1L[:, 0].long(),
            )
        tokens_BLD: Tensor = output.last_hidden_state
        maps = maps_of(outputs, feature_indices)
        return BaseOutput(maps, tokens_BLD, masked_mean(tokens_BLD, valid_B1L), valid_B1L)

    @contextmanager
    def _changed_embeddings(
        self, mask_B1L: Tensor | None, noise_BL: Tensor | None
    ) -> Iterator[None]:
        """Within this context some values of embeddings are dropped, and some tokens are masked."""
        if mask_B1L is None and noise_BL is None:
            yield
            return

        def change(module: nn.Module, inputs: Any, embedded_BLD: Tensor) -> Tensor:
            if noise_BL is not None:
                embedded_BLD = dropped(embedded_BLD, noise_BL)
            if mask_B1L is None:
                return embedded_BLD
            token_D = self.mask_token.to(embedded_BLD.dtype)
            return torch.where(mask_B1L[:, 0, :, None], token_D, embedded_BLD)

        handle = _embedding_of(self.trunk).register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()


def build_text_base(
    kind: str, entries: Mapping[str, Any], state: Mapping[str, Tensor] | None = None
) -> TextBase:
    """Builds a text base on torch's default device.

    Args:
        kind: a model type of transformers.
        entries: of its configuration.
        state: its first weights; random ones, by torch's global seed, if None.

    Raises:
        UserError: the model cannot be built, or has a decoder besides its encoder.
    """
    library = transformers(f"{TRANSFORMERS}{kind}")
    trunk = build_model(library, kind, entries)
    try:
        _use_attention_without_host_sync(trunk)
    except REFUSALS as error:
        raise UserError(f"{TRANSFORMERS}{kind} cannot be built: {first_line(error)}") from None
    base = TextBase(trunk)
    if state is not None:
        trunk.load_state_dict(state)
    return base


def _use_attention_without_host_sync(trunk: Any) -> None:
    """Gives a model torch's attention, with a mask whose values the host does not read.

    transformers itself reads the mask to find out whether there is any padding, and a training step
    must not wait for that. Models with attention of their own keep it.
    """
    if not getattr(trunk, "_supports_sdpa", False):
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def mask(*arguments: Any, **keywords: Any) -> Any:
        always = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return sdpa_mask(*arguments, **{**keywords, **always})

    AttentionInterface.register(ATTENTION, sdpa_attention_forward)
    AttentionMaskInterface.register(ATTENTION, mask)
    trunk.set_attn_implementation(ATTENTION)


def dropped(embedded_BLD: Tensor, noise_BL: Tensor) -> Tensor:
    """Embeddings with some values set to 0 and the others scaled up, as dropout does.

    Which values are dropped depends on the noise of the token alone. A generator of torch would be
    advanced by heads too, and a base must not depend on the heads that train with it.

    Args:
        embedded_BLD: the embeddings.
        noise_BL: int64; a number, times `NOISE_LEVELS`, plus the rate in parts of these. 0 drops
            nothing.
    """
    rate_BL1 = (noise_BL % NOISE_LEVELS).unsqueeze(-1)
    place_D = torch.arange(embedded_BLD.shape[-1], device=noise_BL.device)
    # Two rounds of a multiplicative hash of 31 bits, whose upper bits are used.
    bits_BLD = (noise_BL // NOISE_LEVELS).unsqueeze(-1) * 2654435761 + place_D * 40503 + 1013904223
    for _ in range(2):
        bits_BLD = bits_BLD & 0x7FFFFFFF
        bits_BLD = (bits_BLD ^ (bits_BLD >> 15)) * 0x2C1B3C6D
    level_BLD = ((bits_BLD & 0x7FFFFFFF) >> 12) % NOISE_LEVELS
    scale_BL1 = NOISE_LEVELS / (NOISE_LEVELS - rate_BL1).to(embedded_BLD.dtype)
    return torch.where(level_BLD >= rate_BL1, embedded_BLD * scale_BL1, 0.0)


def _embedding_of(trunk: Any) -> Any:
    """The module that turns token ids into vectors.

    T5's model has two of one weight: its own, and that of its encoder, which is called.
    """
    encoder: Any = getattr(trunk, "encoder", None)
    return (encoder if hasattr(encoder, "get_input_embeddings") else trunk).get_input_embeddings()


def layers_of(trunk: nn.Module) -> list[nn.Module]:
    """The modules whose calls are the layers of a model: fewer than these where layers share them.

    ALBERT calls one block, or each of several, many times. Empty if there are none.
    """
    return repeated_blocks(trunk) or repeated_blocks(trunk, fewest=1)


def pad_id_of(config: Any) -> int:
    """The padding id of a configuration, or any id where it has none: padding is masked."""
    pad_id = getattr(config, "pad_token_id", None)
    return pad_id if isinstance(pad_id, int) and 0 <= pad_id < config.vocab_size else 0


@torch.no_grad()
def reads_padding(base: TextBase) -> bool:
    """Whether the output for a text depends on how much padding is behind it; tried on one text."""
    ids_1L = _probe_ids(base)
    padded_1L = nn.functional.pad(ids_1L, (0, 3), value=-1)
    alone, padded = (base(ids)[0][0] for ids in (ids_1L, padded_1L))
    return not torch.allclose(padded[..., :PROBE_TOKENS], alone, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def is_causal(base: TextBase) -> bool:
    """Whether an output depends on the tokens up to its own only; tried on one text."""
    ids_1L = _probe_ids(base)
    changed_1L = ids_1L.clone()
    changed_1L[:, -1] = ids_1L[:, 0]
    before, after = (base(ids)[0][0][..., :-1] for ids in (ids_1L, changed_1L))
    return torch.allclose(before, after, rtol=0, atol=TOLERANCE)


def _probe_ids(base: TextBase) -> Tensor:
    """(1, `PROBE_TOKENS`) different ids, none of them padding."""
    pad_id = pad_id_of(base.trunk.config)
    ids = [token for token in range(PROBE_TOKENS + 1) if token != pad_id]
    return torch.tensor([ids[:PROBE_TOKENS]])

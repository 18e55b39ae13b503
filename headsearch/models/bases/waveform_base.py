"""`WaveformBase`: a transformers model on waveforms, with the output heads and objectives read.

Models of the kind of wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477): convolutions turn a
waveform into tokens, and transformer blocks follow. Shapes: B clips, T samples, L tokens, D width.
Maps are (B, D, 1, L).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headsearch.config.base_names import TRANSFORMERS
from headsearch.models.bases.base import WHOLE, Base, BaseOutput
from headsearch.models.bases.transformers_models import (
    build_model,
    maps_of,
    outputs_of,
    transformers,
)
from headsearch.models.bases.trunk import make_deterministic

DO_NORMALIZE = "do_normalize"
"""The entry, not of the configuration but of the preprocessor, that says whether waveforms are
scaled to mean 0 and variance 1."""
MASK_TOKEN = "masked_spec_embed"
"""The parameter of these models that replaces masked tokens."""
VARIANCE_FLOOR = 1e-7
"""Added to the variance of a waveform, as in `Wav2Vec2FeatureExtractor` of transformers."""


class WaveformBase(Base):
    """A transformers model with the interface of `Base`: waveforms to maps of one row.

    All random parts of the model are switched off: dropout, layer drop, SpecAugment. Its own
    mask token (`masked_spec_embed`) replaces masked tokens behind the convolutions.

    Args:
        trunk: a model of transformers without a task head.
        normalizes: whether each waveform is scaled to mean 0 and variance 1 first.

    Attributes:
        trunk: the model; the names of its parameters do not change.
    """

    def __init__(self, trunk: Any, *, normalizes: bool = True) -> None:
        nn.Module.__init__(self)
        self.trunk, self.reading, self.normalizes = trunk, WHOLE, normalizes
        self.mask_token = None  # that of the trunk is used
        make_deterministic(trunk)
        trunk.config.layerdrop, trunk.config.apply_spec_augment = 0.0, False
        # It would ask for the gradient of waveforms, which only checkpointing needs.
        trunk.feature_extractor._requires_grad = False

    def forward(
        self,
        waveforms_B11T: Tensor,
        mask_B1L: Tensor | None = None,
        feature_indices: Sequence[int] = (0,),
    ) -> BaseOutput:
        """Computes maps, tokens and the feature of clips: the mean of their tokens.

        Args:
            waveforms_B11T: waveforms in [-1, 1] or so.
            mask_B1L: bool; True for tokens to hide from the blocks.
            feature_indices: the maps to return, counted from the last; must contain 0.
        """
        waveforms_BT = waveforms_B11T.flatten(1)
        if self.normalizes:
            waveforms_BT = scaled(waveforms_BT)
        last = 1 + max(feature_indices)
        with self._masked_tokens(mask_B1L), outputs_of(blocks_of(self.trunk), last) as outputs:
            output = self.trunk(waveforms_BT)
        tokens_BLD: Tensor = output.last_hidden_state
        maps = maps_of(outputs, feature_indices)
        return BaseOutput(maps, tokens_BLD, tokens_BLD.mean(dim=1))

    @contextmanager
    def _masked_tokens(self, mask_B1L: Tensor | None) -> Iterator[None]:
        """Within this context the mask token replaces some tokens behind the convolutions."""
        if mask_B1L is None:
            yield
            return

        def change(module: nn.Module, inputs: Any, output: Any) -> Any:
            # Some models return the features of the convolutions besides.
            tokens_BLD, *others = output if isinstance(output, tuple) else (output,)
            token_D = getattr(self.trunk, MASK_TOKEN).to(tokens_BLD.dtype)
            tokens_BLD = torch.where(mask_B1L[:, 0, :, None], token_D, tokens_BLD)
            return (tokens_BLD, *others) if others else tokens_BLD

        handle = self.trunk.feature_projection.register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()


def scaled(waveforms_BT: Tensor) -> Tensor:
    """Waveforms with mean 0 and variance 1, each by itself; silent ones are 0."""
    variance_B1, mean_B1 = torch.var_mean(waveforms_BT, dim=1, keepdim=True, correction=0)
    return (waveforms_BT - mean_B1) * (variance_B1 + VARIANCE_FLOOR).rsqrt()


def blocks_of(trunk: Any) -> nn.ModuleList:
    """The transformer blocks of a model; its convolutions repeat, too."""
    layers: nn.ModuleList = trunk.encoder.layers
    return layers


def build_waveform_base(
    kind: str, entries: Mapping[str, Any], state: Mapping[str, Tensor] | None = None
) -> WaveformBase:
    """Builds a base of waveforms on torch's default device.

    Args:
        kind: a model type of transformers.
        entries: of its configuration, and `DO_NORMALIZE`.
        state: its first weights; random ones, by torch's global seed, if None.

    Raises:
        UserError: the model cannot be built.
    """
    library = transformers(f"{TRANSFORMERS}{kind}")
    of_model = {key: value for key, value in entries.items() if key != DO_NORMALIZE}
    trunk = build_model(library, kind, of_model)
    # Drawn again as the model draws it, but on the default device; some models have none.
    setattr(trunk, MASK_TOKEN, nn.Parameter(torch.rand(trunk.config.hidden_size)))
    base = WaveformBase(trunk, normalizes=bool(entries.get(DO_NORMALIZE, True)))
    if state is not None:
        trunk.load_state_dict(state)
    return base

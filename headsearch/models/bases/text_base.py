"""`TextBase`: a transformers model on token ids, with the output that heads and objectives read.

Models are built from configurations with random weights, or read from a folder with `config.json`
and safetensors. Nothing is loaded from the hub, no code of a folder is run, no pickle is read.

Shapes: B texts, L tokens, D width. Maps are (B, D, 1, L).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from headsearch.errors import UserError, unknown
from headsearch.models.bases.base import BaseOutput
from headsearch.models.bases.shapes import REFUSALS, first_line
from headsearch.models.bases.trunk import make_deterministic, repeated_blocks
from headsearch.models.heads.padding import masked_mean

PREFIX = "hf:"
NAMES: dict[str, str] = {
    "bert-base-uncased": "bert",
    "distilbert-base-uncased": "distilbert",
    "gpt2": "gpt2",
}
"""Published models whose configuration is the default of their type in transformers."""

PROBE_TOKENS, TOLERANCE = 8, 1e-4
"""Length of the texts on which a model is tried, and the largest difference that is rounding."""


class TextBase(nn.Module):
    """A transformers model with the interface of `Base`: token ids to maps of one row.

    Padding is the token `pad_id`; it lies behind a text. What the maps hold there has no meaning.
    All random parts of the model are switched off.

    Args:
        trunk: a model of transformers without a task head.
        pad_id: the id of the padding token.

    Attributes:
        mask_token: parameter that replaces the embedding of a masked token.
    """

    def __init__(self, trunk: Any, pad_id: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.pad_id = pad_id
        if hasattr(trunk, "pooler"):
            trunk.pooler = None  # its output would be used by no one
        self.mask_token = nn.Parameter(torch.zeros(trunk.get_input_embeddings().embedding_dim))
        make_deterministic(trunk)

    def forward(
        self,
        ids_BL: Tensor,
        mask_B1L: Tensor | None = None,
        feature_indices: Sequence[int] = (0,),
    ) -> BaseOutput:
        """Computes maps, tokens and the feature of texts: the mean of their tokens.

        Args:
            ids_BL: token ids, int64; `pad_id` behind the end of a text.
            mask_B1L: bool; True for tokens to hide from the base.
            feature_indices: the maps to return, counted from the last; must contain 0.
        """
        valid_B1L = (ids_BL != self.pad_id).unsqueeze(1)
        blocks = repeated_blocks(self.trunk)
        with self._masked_tokens(mask_B1L), ExitStack() as hooks:
            seen: dict[int, Tensor] = {}
            for index in feature_indices:
                # The output of a block: the last hidden states of some models have had a norm.
                hook = blocks[-1 - index].register_forward_hook(_remember(seen, index))
                hooks.callback(hook.remove)
            output = self.trunk(input_ids=ids_BL, attention_mask=valid_B1L[:, 0].long())
        tokens_BLD: Tensor = output.last_hidden_state
        maps = {index: seen[index].transpose(1, 2).unsqueeze(2) for index in feature_indices}
        return BaseOutput(maps, tokens_BLD, masked_mean(tokens_BLD, valid_B1L), valid_B1L)

    @contextmanager
    def _masked_tokens(self, mask_B1L: Tensor | None) -> Iterator[None]:
        """Within this context the embeddings of masked tokens are the mask token."""
        if mask_B1L is None:
            yield
            return

        def replace_masked(module: nn.Module, inputs: Any, embedded_BLD: Tensor) -> Tensor:
            return torch.where(mask_B1L[:, 0, :, None], self.mask_token, embedded_BLD)

        handle = self.trunk.get_input_embeddings().register_forward_hook(replace_masked)
        try:
            yield
        finally:
            handle.remove()


def _remember(seen: dict[int, Tensor], index: int) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        seen[index] = output[0] if isinstance(output, tuple) else output

    return hook


def build_text_base(name: str, arguments: Mapping[str, Any] | None = None) -> TextBase:
    """The base that a name means: `hf:TYPE` with random weights, `hf:/FOLDER` with its own.

    Args:
        name: `hf:` with a model type of transformers, with a name in `NAMES`, or with a folder.
        arguments: entries of the configuration that differ from its defaults; none for a folder.

    Raises:
        UserError: transformers is not installed, no such type or folder, a folder without
            safetensors, an argument that the configuration does not have, or a model that reads
            padding.
    """
    transformers = _transformers(name)
    wanted = name.removeprefix(PREFIX)
    if Path(wanted).is_dir():
        if arguments:
            raise UserError(f"{name}: the folder's config.json decides its sizes: give no others")
        trunk = _from_folder(transformers, Path(wanted))
    else:
        trunk = _from_type(transformers, wanted, arguments or {})
    base = TextBase(trunk, _pad_id(trunk.config)).eval()
    if not repeated_blocks(trunk):
        raise UserError(f"{name}: no repeated blocks are found in it: use another base")
    try:
        padding_matters = reads_padding(base)
    except REFUSALS as error:
        raise UserError(f"{name} does not take token ids alone: {first_line(error)}") from None
    if padding_matters:
        raise UserError(
            f"{name}: its output for a text depends on the padding behind it: use another base"
        )
    return base


@torch.no_grad()
def reads_padding(base: TextBase) -> bool:
    """Whether the output for a text depends on how much padding is behind it; tried on one text."""
    ids_1L = _probe_ids(base)
    padded_1L = nn.functional.pad(ids_1L, (0, 3), value=base.pad_id)
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
    ids = [token for token in range(PROBE_TOKENS + 1) if token != base.pad_id]
    return torch.tensor([ids[:PROBE_TOKENS]])


def _pad_id(config: Any) -> int:
    """The padding id of a configuration; its last token, if it names none (as GPT-2's)."""
    pad_id = getattr(config, "pad_token_id", None)
    size = int(config.vocab_size)
    return pad_id if isinstance(pad_id, int) and 0 <= pad_id < size else size - 1


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError(f"{name} needs transformers: pip install transformers") from None
    return transformers


def _from_type(transformers: Any, wanted: str, arguments: Mapping[str, Any]) -> Any:
    """A model of a type, with random weights."""
    if wanted not in NAMES and wanted not in transformers.CONFIG_MAPPING:
        if "/" in wanted:
            raise UserError(
                f"{PREFIX}{wanted}: no such folder, and nothing is loaded from the hub: download "
                f"the model (hf download {wanted} --local-dir FOLDER) and give {PREFIX}FOLDER"
            )
        some = {*NAMES, *NAMES.values()}  # of the hundreds of types
        raise unknown("text base", PREFIX + wanted, [PREFIX + known for known in some])
    config = transformers.AutoConfig.for_model(NAMES.get(wanted, wanted))
    known = config.to_dict()
    for key in arguments:
        if key not in known:
            raise unknown(f"argument of {PREFIX}{wanted}", key, known)
    config = transformers.AutoConfig.for_model(NAMES.get(wanted, wanted), **arguments)
    try:
        return transformers.AutoModel.from_config(config, trust_remote_code=False)
    except REFUSALS as error:
        raise UserError(f"{PREFIX}{wanted} cannot be built: {first_line(error)}") from None


def _from_folder(transformers: Any, folder: Path) -> Any:
    """The model in a folder, with its weights."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: config.json cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("auto_map"):
        raise UserError(f"{folder}: its config.json asks for code of its own, which is never run")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: no .safetensors in it; pickles (.bin, .pt) can run code and are not read: "
            "save the model with safetensors"
        )
    try:
        trunk, report = transformers.AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, SafetensorError, *REFUSALS) as error:
        raise UserError(f"{folder} cannot be read as a model: {first_line(error)}") from None
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise UserError(f"{folder}: its weights lack {sorted(missing)[0]} and others")
    return trunk

"""`write_model_folder`: a trained text base as a folder that transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path

from headsearch.config.base_names import folder_of
from headsearch.data.text.tokens import PAD, Encoder
from headsearch.models.bases import Base
from headsearch.models.bases.transformers_models import transformers

MODEL = "model"
"""The folder of a run with the base as a model of transformers."""


def write_model_folder(run: Path, base: Base, encoder: Encoder, name: str) -> None:
    """Writes config.json, model.safetensors and the tokenizer into RUN/model, in place of an older.

    `transformers.AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained` load it.

    Args:
        run: the run directory.
        base: the text base.
        encoder: what its texts were turned into tokens with.
        name: the base as the user named it; a tokenizer of a folder is copied from there.
    """
    new, folder = run / f"{MODEL}.new", run / MODEL
    shutil.rmtree(new, ignore_errors=True)
    base.trunk.save_pretrained(new)
    own = folder_of(name)
    if own is not None and (own / "tokenizer.json").exists():
        for file in (*own.glob("tokenizer*"), *own.glob("special_tokens_map.json")):
            shutil.copy(file, new)
    else:
        tokenizer = transformers(name).PreTrainedTokenizerFast(
            tokenizer_object=encoder.tokenizer, pad_token=PAD, model_max_length=encoder.length
        )
        tokenizer.save_pretrained(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)

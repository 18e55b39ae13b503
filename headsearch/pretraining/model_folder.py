"""`write_model_folder`: a trained base of texts or waveforms, as transformers loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from headsearch.config.base_names import PREPROCESSOR, folder_of
from headsearch.data.text.tokens import PAD, Encoder
from headsearch.models.bases import Base
from headsearch.models.bases.transformers_models import transformers
from headsearch.models.bases.waveform_base import WaveformBase

MODEL = "model"
"""The folder of a run with the base as a model of transformers."""


def write_model_folder(
    run: Path, base: Base, name: str, *, encoder: Encoder | None = None, rate: int = 0
) -> None:
    """Writes the model, and its tokenizer or preprocessor, into RUN/model, in place of an older.

    `transformers.AutoModel.from_pretrained` loads it, and `AutoTokenizer` or `AutoFeatureExtractor`
    what stands before it. Where the base is an encoder alone (T5), `AutoModelForTextEncoding` does:
    AutoModel would add a new decoder.

    Args:
        run: the run directory.
        base: the base.
        name: the base as the user named it; a tokenizer of a folder is copied from there.
        encoder: what its texts were turned into tokens with; None for a base of waveforms.
        rate: samples per second of its waveforms.
    """
    new, folder = run / f"{MODEL}.new", run / MODEL
    shutil.rmtree(new, ignore_errors=True)
    base.trunk.save_pretrained(new)
    if encoder is not None:
        _write_tokenizer(new, name, encoder)
    else:
        assert isinstance(base, WaveformBase)
        _write_preprocessor(new, rate, normalizes=base.normalizes)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _write_tokenizer(new: Path, name: str, encoder: Encoder) -> None:
    own = folder_of(name)
    if own is not None and (own / "tokenizer.json").exists():
        for file in (*own.glob("tokenizer*"), *own.glob("special_tokens_map.json")):
            shutil.copy(file, new)
        return
    tokenizer = transformers(name).PreTrainedTokenizerFast(
        tokenizer_object=encoder.tokenizer, pad_token=PAD, model_max_length=encoder.length
    )
    tokenizer.save_pretrained(new)


def _write_preprocessor(new: Path, rate: int, *, normalizes: bool) -> None:
    content = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": rate,
        "do_normalize": normalizes,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }
    (new / PREPROCESSOR).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

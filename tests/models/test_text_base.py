"""Text bases: tiny transformers models, whose outputs padding does not change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from headsearch.errors import UserError
from headsearch.models.bases.text_base import TextBase, build_text_base, is_causal

TINY = {
    "hf:bert-base-uncased": {
        "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2,
        "intermediate_size": 64, "vocab_size": 50,
    },
    "hf:gpt2": {"n_layer": 3, "n_embd": 32, "n_head": 2, "vocab_size": 50},
}  # fmt: skip

FNET = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 50}
T5 = {"num_layers": 2, "d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16, "vocab_size": 50}


def test_without_transformers_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="hf:gpt2 needs transformers: pip install transformers"):
        build_text_base("hf:gpt2")


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def tiny(name: str) -> TextBase:
    torch.manual_seed(0)
    return build_text_base(name, TINY[name])


@pytest.mark.parametrize("name", TINY)
def test_padding_does_not_change_a_text(name, transformers) -> None:
    base = tiny(name)
    ids = torch.arange(1, 13).view(2, 6)
    padded = torch.full((2, 11), base.pad_id)
    padded[:, :6] = ids
    padded[1, 4:] = base.pad_id
    with torch.no_grad():
        short, whole = base(ids[1:, :4], feature_indices=(0, 1)), base(ids, feature_indices=(0, 1))
        found = base(padded, feature_indices=(0, 1))
    assert found.valid.squeeze(1).sum(1).tolist() == [6, 4]
    for index in (0, 1):
        map_BD1L = found.maps_BDHW[index]
        assert map_BD1L.shape == (2, 32, 1, 11)
        torch.testing.assert_close(
            map_BD1L[0, ..., :6], whole.maps_BDHW[index][0], rtol=0, atol=1e-6
        )
        torch.testing.assert_close(
            map_BD1L[1, ..., :4], short.maps_BDHW[index][0], rtol=0, atol=1e-6
        )
    torch.testing.assert_close(found.pooled_BD[0], whole.tokens_BND[0].mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.pooled_BD[1], short.tokens_BND[0].mean(0), rtol=0, atol=1e-6)


def test_maps_come_before_the_final_norm_and_a_reading_model_is_causal(transformers) -> None:
    gpt, bert = tiny("hf:gpt2"), tiny("hf:bert-base-uncased")
    assert (is_causal(gpt), is_causal(bert)) == (True, False)
    out = gpt(torch.arange(1, 7)[None])
    normed = gpt.trunk.ln_f(out.maps_BDHW[0][:, :, 0].transpose(1, 2))
    torch.testing.assert_close(normed, out.tokens_BND)


def test_a_base_is_deterministic_and_masked_tokens_are_hidden(transformers) -> None:
    base = tiny("hf:bert-base-uncased").train()
    ids, other = torch.arange(1, 7)[None], torch.tensor([[1, 2, 30, 4, 5, 6]])
    assert torch.equal(base(ids).tokens_BND, base(ids).tokens_BND)
    mask = (torch.arange(6) == 2)[None, None]
    assert torch.equal(base(ids, mask).tokens_BND, base(other, mask).tokens_BND)
    assert not torch.equal(base(ids).tokens_BND, base(other).tokens_BND)
    base(ids, mask).pooled_BD.square().sum().backward()
    unused = {name for name, weight in base.named_parameters() if weight.grad is None}
    assert unused == set()


def test_a_folder_gives_its_weights(transformers, tmp_path: Path) -> None:
    base = tiny("hf:bert-base-uncased")
    base.trunk.save_pretrained(tmp_path)
    again = build_text_base(f"hf:{tmp_path}")
    ids = torch.arange(1, 7)[None]
    assert torch.equal(again(ids).tokens_BND, base(ids).tokens_BND)
    with pytest.raises(UserError, match=r"the folder's config\.json decides"):
        build_text_base(f"hf:{tmp_path}", {"num_hidden_layers": 2})
    weights = next(tmp_path.glob("*.safetensors"))
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \.safetensors in it; pickles .* are not read"):
        build_text_base(f"hf:{tmp_path}")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(UserError, match="asks for code of its own, which is never run"):
        build_text_base(f"hf:{tmp_path}")
    weights.write_bytes(b"cut short")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be read as a model") as error:
        build_text_base(f"hf:{tmp_path}")
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        build_text_base(f"hf:{tmp_path}")


def test_names_that_cannot_be_built_are_told_in_one_line(transformers) -> None:
    for name, arguments, said in (
        ("hf:google-bert/bert-base-uncased", {}, "nothing is loaded from the hub: download the"),
        ("hf:bort", {}, "unknown text base 'hf:bort'; did you mean 'hf:bert'"),
        ("hf:bert", {"layers": 2}, "unknown argument of hf:bert 'layers'"),
        ("hf:bert", {"hidden_size": 30, "num_attention_heads": 4}, "cannot be built"),
        ("hf:fnet", FNET, "its output for a text depends on the padding behind it"),
        ("hf:t5", T5, "hf:t5 does not take token ids alone"),
    ):
        with pytest.raises(UserError, match=said) as error:
            build_text_base(name, arguments)
        assert "\n" not in str(error.value)

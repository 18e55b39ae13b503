"""Text bases: tiny transformers models, whose outputs padding does not change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan, plan_named, plan_text_base, text_plan
from headsearch.models.bases.text_base import TextBase

TEXTS = InputShape.text(12, 50)
SIZES = {
    "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
ALBERT = {**SIZES, "embedding_size": 16}
T5 = {"num_layers": 3, "d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16}
TINY = {
    "hf:bert-base-uncased": SIZES,
    "hf:distilbert": {"n_layers": 3, "dim": 32, "n_heads": 2, "hidden_dim": 64},
    "hf:roberta": SIZES,
    "hf:electra": {**SIZES, "embedding_size": 16},
    "hf:albert": ALBERT,
    "hf:deberta-v2": SIZES,
    "hf:modernbert": SIZES,
    "hf:mpnet": SIZES,
    "hf:gpt2": {"n_layer": 3, "n_embd": 32, "n_head": 2},
    "hf:gpt_neox": SIZES,
    "hf:llama": SIZES,
    "hf:opt": {
        "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    },
    "hf:mamba": {"num_hidden_layers": 3, "hidden_size": 32},
    "hf:rwkv": {"num_hidden_layers": 3, "hidden_size": 32, "attention_hidden_size": 32},
    "hf:t5": T5,
    "hf:mt5": T5,
    "hf:umt5": T5,
}  # fmt: skip
"""Every type that the documentation names."""
KINDS = ["hf:bert-base-uncased", "hf:gpt2", "hf:deberta-v2", "hf:mamba", "hf:albert", "hf:t5"]
"""Attention in both directions and in one, attention of its own kind, none, one block for all
layers, and an encoder alone."""

FNET = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}


def test_without_transformers_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="hf:gpt2 needs transformers: pip install"):
        plan_text_base("hf:gpt2", TEXTS)


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def plan_of(name: str) -> BasePlan:
    return plan_text_base(name, TEXTS, TINY[name])


def tiny(name: str) -> TextBase:
    plan = plan_of(name)
    torch.manual_seed(0)
    base = plan.build()
    assert isinstance(base, TextBase)
    return base.eval()


@pytest.mark.parametrize("name", TINY)
def test_padding_does_not_change_a_text(name, transformers) -> None:
    base = tiny(name)
    ids = torch.arange(1, 13).view(2, 6)
    padded = torch.full((2, 11), -1)
    padded[:, :6] = ids
    padded[1, 4:] = -1
    with torch.no_grad():
        short, whole = base(ids[1:, :4], feature_indices=(0, 1)), base(ids, feature_indices=(0, 1))
        found = base(padded, feature_indices=(0, 1))
    assert found.valid.squeeze(1).sum(1).tolist() == [6, 4]
    for index in (0, 1):
        map_BD1L = found.maps_BDHW[index]
        assert map_BD1L.shape == (2, 32, 1, 11)
        assert_close(map_BD1L[0, ..., :6], whole.maps_BDHW[index][0])
        assert_close(map_BD1L[1, ..., :4], short.maps_BDHW[index][0])
    assert_close(found.pooled_BD[0], whole.tokens_BND[0].mean(0))
    assert_close(found.pooled_BD[1], short.tokens_BND[0].mean(0))


def assert_close(found: torch.Tensor, want: torch.Tensor) -> None:
    """The same up to rounding: a millionth of the largest value."""
    assert (found - want).abs().max() <= 1e-6 * want.abs().max()


@pytest.mark.parametrize("name", KINDS)
def test_the_output_is_that_of_the_model(name, transformers) -> None:
    base, ids = tiny(name), torch.arange(1, 13).view(2, 6)
    encoder_alone = name == "hf:t5"
    build = transformers.T5EncoderModel if encoder_alone else transformers.AutoModel.from_config
    model = build(base.trunk.config).eval()
    model.load_state_dict(base.weights(), strict=False)  # it has a pooler besides
    with torch.no_grad():
        want = model(input_ids=ids, output_hidden_states=True)
        found = base(ids, feature_indices=(0, 1, 2))
    assert_close(found.tokens_BND, want.last_hidden_state)
    # The last hidden state of some models has had a norm, and Mamba's are of other places.
    for index in () if name == "hf:mamba" else (1, 2):
        map_BLD = found.maps_BDHW[index].squeeze(2).transpose(1, 2)
        assert_close(map_BLD, want.hidden_states[-1 - index])


@pytest.mark.parametrize(
    ("sizes", "layers"),
    [
        ({"num_hidden_layers": 1}, 1),
        ({"num_hidden_layers": 4, "num_hidden_groups": 2}, 4),
        ({"num_hidden_layers": 2, "inner_group_num": 2}, 4),
        ({"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}, 8),
    ],
)
def test_each_call_of_a_shared_block_is_a_layer(sizes, layers, transformers) -> None:
    """ALBERT (arXiv 1909.11942) calls the blocks of each group many times."""
    plan = plan_text_base("hf:albert", TEXTS, {**ALBERT, **sizes})
    assert len(plan.stages) == layers
    base, ids = plan.build().eval(), torch.arange(1, 13).view(2, 6)
    with torch.no_grad():
        want = base.trunk(input_ids=ids, output_hidden_states=True).hidden_states[1:]
        for _ in range(2):  # a forward pass leaves nothing behind for the next
            maps = base(ids, feature_indices=range(layers)).maps_BDHW
            for index, hidden_BLD in enumerate(reversed(want)):
                assert_close(maps[index].squeeze(2).transpose(1, 2), hidden_BLD)
    assert base(ids).maps_BDHW.keys() == {0}


@pytest.mark.parametrize("name", [each for each in KINDS if each != "hf:deberta-v2"])
def test_a_step_looks_at_no_value_on_the_host(name, transformers) -> None:
    plan = plan_of(name)
    with torch.device("meta"):  # has no values
        base = plan.build().train()
        views = torch.zeros(2, 2, 12, dtype=torch.int64)
        output = base(views, torch.zeros(2, 1, 12, dtype=torch.bool), feature_indices=(0, 2))
    assert output.maps_BDHW[2].shape == (2, 32, 1, 12)


def test_a_plan_knows_shapes_and_whether_a_base_is_causal(transformers) -> None:
    bert, gpt, mamba = map(plan_of, ("hf:bert-base-uncased", "hf:gpt2", "hf:mamba"))
    assert [p.causal for p in (bert, gpt, mamba)] == [False, True, True]
    assert [p.own_family for p in (bert, gpt, mamba)] == ["attention", "attention", None]
    assert [s.grid for s in bert.stages] == [(1, 12)] * 3
    # Per token and block: 4 D² of attention, 2 · 2 D² of the MLP, and 2 L D for attention itself.
    products = 12 * 3 * (4 * 32**2 + 2 * 32 * 64 + 2 * 12 * 32)
    assert bert.gflops == pytest.approx(2 * products / 1e9)
    words = str(bert)
    assert "texts of up to 12 tokens" in words
    assert "vocab" not in words


def test_maps_come_before_the_final_norm(transformers) -> None:
    gpt = tiny("hf:gpt2")
    out = gpt(torch.arange(1, 7)[None])
    normed = gpt.trunk.ln_f(out.maps_BDHW[0][:, :, 0].transpose(1, 2))
    torch.testing.assert_close(normed, out.tokens_BND)


@pytest.mark.parametrize("name", ["hf:bert-base-uncased", "hf:albert", "hf:t5", "hf:umt5"])
def test_a_base_is_deterministic_and_masked_tokens_are_hidden(name, transformers) -> None:
    base = tiny(name).train()
    ids, other = torch.arange(1, 7)[None], torch.tensor([[1, 2, 30, 4, 5, 6]])
    assert torch.equal(base(ids).tokens_BND, base(ids).tokens_BND)
    mask = (torch.arange(6) == 2)[None, None]
    assert torch.equal(base(ids, mask).tokens_BND, base(other, mask).tokens_BND)
    assert not torch.equal(base(ids).tokens_BND, base(other).tokens_BND)
    base(ids, mask).pooled_BD.square().sum().backward()
    unused = {name for name, weight in base.named_parameters() if weight.grad is None}
    assert unused == set()


def test_the_noise_of_a_view_decides_what_is_dropped(transformers) -> None:
    base = tiny("hf:bert-base-uncased").train()
    ids = torch.arange(1, 7)[None]
    none, noise = torch.zeros_like(ids), torch.full_like(ids, 1234 * 256 + 26)
    plain, one, two = (base(torch.stack([ids, each], 1)) for each in (none, noise, noise + 256))
    assert torch.equal(plain.tokens_BND, base(ids).tokens_BND)
    assert torch.equal(one.tokens_BND, base(torch.stack([ids, noise], 1)).tokens_BND)
    assert not torch.equal(one.tokens_BND, plain.tokens_BND)
    assert not torch.equal(one.tokens_BND, two.tokens_BND)


def test_a_folder_gives_its_weights(transformers, tmp_path: Path) -> None:
    base, name = tiny("hf:bert-base-uncased"), f"hf:{tmp_path}"
    base.trunk.save_pretrained(tmp_path)
    plan = plan_text_base(name, TEXTS)
    ids = torch.arange(1, 7)[None]
    assert torch.equal(plan.build()(ids).tokens_BND, base(ids).tokens_BND)
    assert plan.weights is not None
    assert len(str(plan)) < 300
    with pytest.raises(UserError, match=r"the folder's config\.json decides"):
        plan_text_base(name, TEXTS, {"num_hidden_layers": 2})
    with pytest.raises(UserError, match="knows 50 tokens, but the texts have 51"):
        plan_text_base(name, InputShape.text(12, 51))
    weights = next(tmp_path.glob("*.safetensors"))
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \.safetensors in it; pickles .* are not read"):
        plan_text_base(name, TEXTS)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(UserError, match="asks for code of its own, which is never run"):
        plan_text_base(name, TEXTS)
    weights.write_bytes(b"cut short")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be read as a model") as error:
        plan_text_base(name, TEXTS)
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        plan_text_base(name, TEXTS)


@pytest.mark.parametrize("name", ["t5", "umt5"])
def test_the_encoder_of_a_whole_model_gives_its_weights(name, transformers, tmp_path) -> None:
    config = transformers.AutoConfig.for_model(name, **T5, vocab_size=50)
    whole = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    base = plan_text_base(f"hf:{tmp_path}", TEXTS).build().eval()
    assert not any("decoder" in key for key in base.weights())
    ids = torch.arange(1, 13).view(2, 6)
    with torch.no_grad():
        want = whole.get_encoder()(input_ids=ids).last_hidden_state
        assert_close(base(ids).tokens_BND, want)


def test_a_folder_that_holds_no_model_does_not_hide_a_type(
    transformers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()  # as `--out bert` makes it
    assert plan_text_base("hf:bert", TEXTS, SIZES).weights is None
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        plan_text_base("hf:./bert", TEXTS)
    tiny("hf:gpt2").trunk.save_pretrained(tmp_path / "bert")
    assert plan_text_base("hf:bert", TEXTS).timm_name == "gpt2"


def test_a_folder_with_a_small_vocabulary_is_planned_without_data(
    transformers, tmp_path: Path
) -> None:
    tiny("hf:gpt2").trunk.save_pretrained(tmp_path)
    assert plan_named(f"hf:{tmp_path}", 32).input_shape.vocabulary == 50
    of_type = plan_named("hf:gpt2", 32, base_args="n_layer=2,n_embd=8,n_head=2")
    assert of_type.input_shape == InputShape.text(64, 8192)


def test_names_that_cannot_be_built_are_told_in_one_line(transformers) -> None:
    for name, arguments, said in (
        ("hf:google-bert/bert-base-uncased", {}, "nothing is loaded from the hub: download the"),
        ("hf:bort", {}, "unknown text base 'hf:bort'; did you mean 'hf:bert'"),
        ("hf:bert", {"layers": 2}, "unknown argument of hf:bert 'layers'"),
        ("hf:bert", {"vocab_size": 2}, "--base-args: vocab_size follows the texts"),
        ("hf:bert", {"hidden_size": 30, "num_attention_heads": 4}, "cannot be built"),
        ("hf:bert", {"hidden_size": "wide"}, "hf:bert cannot be built: .*hidden_size"),
        ("hf:fnet", FNET, "its output for a text depends on the padding behind it"),
        ("hf:convbert", SIZES, "its output for a text depends on the padding behind it"),
        ("hf:t5", {"layers": 2}, "unknown argument of hf:t5 'layers'"),
        *(
            (f"hf:{kind}", {}, f"hf:{kind} cannot be built: it has an encoder and a decoder")
            for kind in ("bart", "mbart", "pegasus", "marian", "led", "longt5", "encoder-decoder")
        ),
    ):
        with pytest.raises(UserError, match=said) as error:
            plan_text_base(name, TEXTS, arguments)
        assert "\n" not in str(error.value)


def test_a_model_that_memory_does_not_hold_is_refused_before_it_is_built(
    transformers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_plan, "free_memory", lambda device: 10 * 2**30)
    with pytest.raises(UserError, match=r"hf:llama has 6\.\d billion .* but 11 GB are free: make"):
        plan_text_base("hf:llama", TEXTS)
    monkeypatch.setattr(text_plan, "free_memory", lambda device: None)
    assert plan_text_base("hf:llama", TEXTS, SIZES).params_m < 1

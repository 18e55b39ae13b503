"""Bases of waveforms: tiny transformers models in the way of wav2vec 2.0."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from headsearch.config.base_names import WAVEFORM_TYPES, domain_of_base, rate_of
from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan, parsed_arguments, plan_base, plan_waveform_base
from headsearch.models.bases.waveform_base import WaveformBase, scaled

CLIPS = InputShape.waveform(1600, 8000)
TINY = (
    "num_hidden_layers=3,hidden_size=32,num_attention_heads=2,intermediate_size=48,"
    "conv_dim=(16,16,16),conv_kernel=[10,3,3],conv_stride=(5,4,4)"
)
"""A token for each 80 samples; lists may stand in either kind of brackets."""
TOKENS = 20
POSITIONS = {"data2vec-audio": 2}
"""The positional convolutions of data2vec are layers, of the others one layer of this width."""


def test_without_transformers_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="hf:wav2vec2 needs transformers: pip install"):
        plan_waveform_base("hf:wav2vec2", CLIPS)


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def plan_of(kind: str = "wav2vec2", **changes: Any) -> BasePlan:
    positions = {"num_conv_pos_embeddings": POSITIONS.get(kind, 8)}
    return plan_waveform_base(
        f"hf:{kind}", CLIPS, {**parsed_arguments(TINY), **positions, **changes}
    )


def tiny(kind: str = "wav2vec2", **changes: Any) -> WaveformBase:
    plan = plan_of(kind, **changes)
    torch.manual_seed(0)
    base = plan.build()
    assert isinstance(base, WaveformBase)
    return base


def clips(count: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(count, 1, 1, 1600, generator=torch.Generator().manual_seed(0)) + 0.01


@pytest.mark.parametrize("kind", WAVEFORM_TYPES)
def test_the_output_is_that_of_the_model_on_what_its_preprocessor_gives(kind, transformers) -> None:
    base = tiny(kind).eval()
    model = transformers.AutoModel.from_config(base.trunk.config).eval()
    model.load_state_dict(base.weights())
    prepare = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    inputs = prepare(list(clips()[:, 0, 0].numpy()), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        found, want = base(clips(), feature_indices=(0, 2)), model(**inputs).last_hidden_state
    torch.testing.assert_close(found.tokens_BND, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled_BD, want.mean(1), rtol=0, atol=1e-5)
    assert found.maps_BDHW[0].shape == found.maps_BDHW[2].shape == (2, 32, 1, TOKENS)
    assert not torch.equal(found.maps_BDHW[0], found.maps_BDHW[2])
    assert found.valid is None


@pytest.mark.parametrize("kind", WAVEFORM_TYPES)
def test_training_draws_nothing_and_asks_the_host_for_no_value(kind, transformers) -> None:
    base = tiny(kind).train()
    before = torch.get_rng_state()
    assert torch.equal(base(clips()).tokens_BND, base(clips()).tokens_BND)
    assert torch.equal(base(clips()).tokens_BND, base.eval()(clips()).tokens_BND)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.device("meta"):  # has no values
        meta = plan_of(kind).build().train()
        mask = torch.zeros(2, 1, TOKENS, dtype=torch.bool)
        output = meta(torch.zeros(2, 1, 1, 1600), mask, feature_indices=(0, 2))
    assert output.maps_BDHW[2].shape == (2, 32, 1, TOKENS)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
def test_masked_tokens_are_hidden_behind_the_convolutions(kind, transformers) -> None:
    base, changed = tiny(kind, do_normalize=False).train(), clips()
    changed[..., 800:880] = 0.0
    mask = torch.zeros(2, 1, TOKENS, dtype=torch.bool)
    mask[..., 7:12] = True  # all tokens that see the part that differs
    # The field of token i are samples 80 i to 80 i + 59.
    assert torch.equal(base(clips(), mask).tokens_BND, base(changed, mask).tokens_BND)
    assert not torch.equal(base(clips()).tokens_BND, base(changed).tokens_BND)
    base(clips(), mask).pooled_BD.square().sum().backward()
    unused = {name for name, weight in base.named_parameters() if weight.grad is None}
    assert unused == set()


def test_the_convolutions_normalise_each_token_by_itself_unless_asked_otherwise(
    transformers,
) -> None:
    per_token, over_time = tiny(), tiny(feat_extract_norm="group")
    for base, alone in ((per_token, True), (over_time, False)):
        extract = base.trunk.feature_extractor
        with torch.no_grad():
            short, whole = (extract(clips()[:, 0, 0, :end])[..., :5] for end in (800, 1600))
        assert torch.allclose(short, whole, rtol=0, atol=1e-4) == alone


def test_a_plan_knows_shapes_and_cost(transformers) -> None:
    plan = plan_of()
    assert plan.stages == ((32, (1, TOKENS)),) * 3
    assert (plan.causal, plan.own_family) == (False, "attention")
    assert "waveforms of 1600 samples" in str(plan)
    convolutions = 319 * 16 * 10 + 80 * 16 * 16 * 3 + TOKENS * 16 * 16 * 3
    positions = (TOKENS + 1) * 32 * (32 // 16) * 8
    blocks = 3 * TOKENS * (4 * 32**2 + 2 * 32 * 48 + 2 * TOKENS * 32)
    products = convolutions + TOKENS * 16 * 32 + positions + blocks
    assert plan.gflops == pytest.approx(2 * products / 1e9, rel=1e-3)


def test_waveforms_are_scaled_one_by_one_and_silence_stays_silent() -> None:
    found = scaled(torch.stack([3 * clips(1).flatten() + 1, torch.zeros(1600)]))
    assert found[0].mean() == pytest.approx(0, abs=1e-5)
    assert found[0].var(correction=0) == pytest.approx(1, abs=1e-4)
    assert found[1].abs().max() == 0


def test_a_folder_gives_weights_rate_and_whether_to_scale(transformers, tmp_path: Path) -> None:
    base, name = tiny("hubert", do_normalize=False).eval(), f"hf:{tmp_path}"
    base.trunk.save_pretrained(tmp_path)
    assert (domain_of_base(name), rate_of(name)) == ("audio", None)
    preprocessor = tmp_path / "preprocessor_config.json"
    preprocessor.write_text(json.dumps({"sampling_rate": 8000, "do_normalize": False}))
    assert rate_of(name) == 8000
    plan = plan_waveform_base(name, CLIPS)
    assert torch.equal(plan.build().eval()(clips()).tokens_BND, base(clips()).tokens_BND)
    assert plan.weights is not None
    assert plan.arguments["do_normalize"] is False
    with pytest.raises(UserError, match=r"the folder's config\.json decides"):
        plan_waveform_base(name, CLIPS, {"num_hidden_layers": 2})
    preprocessor.write_text(json.dumps({"sampling_rate": "high"}))
    with pytest.raises(UserError, match="names 'high' as its sampling_rate"):
        rate_of(name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "add_adapter": True}))
    with pytest.raises(UserError, match=r"adapter behind its last block|its weights lack"):
        plan_waveform_base(name, CLIPS)
    next(tmp_path.glob("*.safetensors")).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \.safetensors in it; pickles .* are not read"):
        plan_waveform_base(name, CLIPS)


def test_a_folder_without_a_mask_token_can_be_masked(transformers, tmp_path: Path) -> None:
    base = tiny(mask_time_prob=0.0)
    del base.trunk.masked_spec_embed
    base.trunk.save_pretrained(tmp_path)
    mask = torch.ones(2, 1, TOKENS, dtype=torch.bool)
    built = plan_waveform_base(f"hf:{tmp_path}", CLIPS).build()
    assert torch.equal(built(clips(), mask).tokens_BND[0], built(clips(), mask).tokens_BND[1])


def test_names_that_cannot_be_built_are_told_in_one_line(transformers) -> None:
    few = {"conv_dim": (8, 8), "conv_kernel": (10,), "conv_stride": (5, 2)}
    for name, arguments, said in (
        ("hf:facebook/wav2vec2-base", {}, "nothing is loaded from the hub: download the"),
        ("hf:hubbert", {}, "unknown base of waveforms 'hf:hubbert'; did you mean 'hf:hubert'"),
        ("hf:wav2vec2", {"layers": 2}, "unknown argument of hf:wav2vec2 'layers'"),
        ("hf:wav2vec2", {"apply_spec_augment": True}, "has no effect: nothing in a base is random"),
        ("hf:wav2vec2", {"add_adapter": True}, "a base ends in its last block"),
        ("hf:wav2vec2", few, "cannot be built"),
        ("hf:wav2vec2", {"hidden_size": "wide"}, "cannot be built"),
        ("hf:wav2vec2", {"conv_stride": (5, 4, 4, 2, 2, 2, 2)}, "are shorter than the"),
        ("hf:wav2vec2", {}, "shorter than the 2640 from which hf:wav2vec2 makes 8 tokens"),
    ):
        with pytest.raises(UserError, match=said) as error:
            plan_waveform_base(name, CLIPS, arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is a base of texts or sounds"):
        plan_base("hf:wav2vec2", 32)

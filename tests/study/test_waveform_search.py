"""A search on waveforms, from files to report, and what follows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headsearch.api import candidates
from headsearch.config.input_shape import InputShape
from headsearch.config.settings import RunConfig, resolve
from headsearch.errors import UserError
from headsearch.pretraining.head_selection import head_on
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import prepare_again, prepare_pretraining
from headsearch.report.document import write_report
from headsearch.runs.run import Run, read_run
from headsearch.study.profiling.benchmark_setup import bench_heads, bench_settings, prepare_bench
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import attach
from helpers.clips import tone_folder

transformers = pytest.importorskip("transformers")

SPACE = """
families:
  attention: {depth: 1}
  convnext: {depth: 1, kernel: 3}
controls:
  identity:
"""
TINY = (
    "num_hidden_layers=2,hidden_size=32,num_attention_heads=2,intermediate_size=48,"
    "conv_dim=(16,16,16),conv_kernel=(10,3,3),conv_stride=(5,4,4),num_conv_pos_embeddings=8"
)


def config_for(folder: Path, **changes: object) -> RunConfig:
    (folder / "space.yaml").write_text(SPACE)
    return resolve({
        "base": "hf:wav2vec2", "base_args": TINY, "space": str(folder / "space.yaml"),
        "data": str(folder / "clips"), "epochs": 2, "batch_size": 32, "rungs": 2,
        "eval_images": 64, "bank_images": 64, "device": "cpu", "precision": "float32",
        "threads": 1, "out": folder / "run", **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("waveforms")
    tone_folder(folder / "clips", each=40)
    Search(prepare(config_for(folder))).run()
    return read_run(folder / "run")


def test_a_search_on_waveforms_has_the_same_tables(searched: Run) -> None:
    assert set(searched.ranking["candidate"]) == {"attention-d1", "convnext-d1-k3", "identity"}
    assert (searched.ranking["state"] == "complete").all()
    assert searched.rungs["head_knn"].between(0, 1).all()
    config = searched.config
    assert (config["domain"], config["image_size"]) == ("audio", None)
    assert (config["sample_rate"], config["clip_seconds"]) == (8000, 0.48)
    assert searched.facts["base"]["grid"] == [1, 48]
    write_report(searched)
    report = (searched.path / "report.md").read_text()
    assert "Raw log-mel" in report
    assert "training clips" in report


def test_a_search_is_resumed_with_the_same_waveforms(searched: Run) -> None:
    plan = resumed_search(searched).prepared.plan
    assert plan.input_shape == InputShape.waveform(3840, 8000)


def test_the_base_is_pretrained_and_loaded_by_transformers(searched: Run, tmp_path: Path) -> None:
    flags = {"out": tmp_path / "solo", "epochs": 1, "rungs": 1}
    solo = Pretraining(prepare_pretraining(flags, run=searched, head="convnext-d1-k3"))
    solo.run()
    folder = tmp_path / "solo" / "model"
    assert solo.loading == f"transformers.AutoModel.from_pretrained('{folder}')"
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    assert extractor.sampling_rate == 8000
    # A base of that folder continues from it, at its rate.
    config = config_for(searched.path.parent, base=f"hf:{folder}", base_args=None, out=None)
    again = prepare(config)
    assert again.config.sample_rate == 8000
    waveform = 0.1 * torch.randn(3840, generator=torch.Generator().manual_seed(0))
    values = extractor(waveform.numpy(), sampling_rate=8000, return_tensors="pt").input_values
    with torch.no_grad():
        want = model(values).last_hidden_state
        found = again.plan.build().eval()(waveform.view(1, 1, 1, -1)).tokens_BND
    torch.testing.assert_close(found, want, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match=r"--sample-rate 16000: .* takes 8000 samples per second"):
        prepare(config.model_copy(update={"sample_rate": 16000}))
    # A pretraining whose settings are read back builds the same base.
    assert prepare_again(tmp_path / "solo").setup.plan.arguments["hidden_size"] == 32


@pytest.mark.parametrize("objective", ["ibot", "byol", "dino", "vicreg"])
def test_objectives_with_masks_and_teachers_train_on_waveforms(
    searched: Run, objective: str
) -> None:
    setup = prepare(config_for(searched.path.parent, objective=objective, out=None)).training
    trainer = setup.new_trainer("joint")
    attach(trainer, setup, head_on(setup.plan, "convnext-d1-k3", searched).candidate)
    for step in range(2):
        trainer.step(setup.new_loader().crops(step), StepPosition(step, setup.steps))
    assert trainer.read().base_sound
    assert all(parameter.isfinite().all() for parameter in trainer.student.parameters())
    assert setup.random_views().crops.shape[1:] == (32, 1, 1, 3840)


def test_a_space_is_listed_without_data() -> None:
    listed = candidates(
        {"families": {"convnext": {"depth": 1, "kernel": 3}}}, "hf:wav2vec2", base_args=TINY,
        clip_seconds=0.48,
    )  # fmt: skip
    assert "convnext-d1-k3" in set(listed["candidate"])
    by_default = candidates({"families": {"attention": {"depth": 1}}}, "hf:wav2vec2")
    assert by_default["params_m"].max() > 1


def test_bench_measures_steps_on_random_waveforms(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    config = resolve({
        "base": "hf:wav2vec2", "base_args": TINY, "clip_seconds": 0.48, "batch_size": 4,
        "space": str(tmp_path / "space.yaml"), "device": "cpu", "threads": 1,
    })  # fmt: skip
    setup = prepare_bench(bench_settings(config, 1))
    shape = setup.training.data.train.shape
    assert (shape.rate, shape.width) == (16_000, 7680)
    assert [head.family for head in bench_heads(setup, 1)] == ["attention"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"domain": "text"}, "hf:wav2vec2 takes waveforms of clips; leave --domain out"),
        ({"domain": "image"}, "hf:wav2vec2 takes waveforms of clips; leave --domain out"),
        (
            {"domain": "audio", "base": "hf:bert", "base_args": None},
            "take clips are hf:wav2vec2, hf:hubert",
        ),
        ({"domain": "audio", "base": "hf:a/b", "base_args": None}, "hf:a/b: no such folder"),
        ({"mels": 32}, "--mels is for bases of log-mel maps"),
        ({"patch_size": 4}, "--patch-size is for bases of log-mel maps"),
        ({"base_weights": "w.safetensors"}, "--base-weights is for bases of log-mel maps"),
        ({"normalization": "0.5/0.5"}, "--normalization is for log-mel maps"),
        ({"objective": "mae"}, "--objective mae has no target for hf:wav2vec2"),
        ({"views": "time_scale=1/1"}, "no setting 'time_scale'"),
        ({"base_args": "layers=2"}, "unknown argument of hf:wav2vec2 'layers'"),
        ({"base_args": TINY + ",layerdrop=0.1"}, "layerdrop has no effect"),
        ({"base_args": None, "clip_seconds": 0.01, "sample_rate": 1000}, "are shorter than the"),
    ],
)
def test_settings_that_do_not_fit_waveforms_are_one_line(
    searched: Run, changes: dict[str, object], said: str
) -> None:
    out = searched.path.parent / "none"
    with pytest.raises(UserError, match=said) as error:
        prepare(config_for(searched.path.parent, **{"out": out, **changes}))
    assert "\n" not in str(error.value)
    assert not out.exists()

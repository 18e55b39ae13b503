"""A search on clips of sound, from files to report, and what follows it: pretraining, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from headsearch.config.input_shape import InputShape
from headsearch.config.settings import RunConfig, resolve
from headsearch.errors import UserError
from headsearch.pretraining.head_selection import head_on
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.report.document import write_report
from headsearch.runs.run import Run, read_run
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import attach
from helpers.clips import tone_folder

SPACE = """
families:
  attention: {depth: 1}
  convnext: {depth: 1, kernel: 3}
controls:
  identity:
"""


def config_for(folder: Path, **changes: object) -> RunConfig:
    (folder / "space.yaml").write_text(SPACE)
    return resolve({
        "base": "test_vit", "space": str(folder / "space.yaml"), "data": str(folder / "clips"),
        "epochs": 2, "batch_size": 32, "rungs": 2, "eval_images": 64, "bank_images": 64,
        "device": "cpu", "precision": "float32", "threads": 1, "mels": 24,
        "out": folder / "run", **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("audio")
    tone_folder(folder / "clips", each=40)
    Search(prepare(config_for(folder))).run()
    return read_run(folder / "run")


def test_a_search_on_clips_has_the_same_tables(searched: Run) -> None:
    assert set(searched.ranking["candidate"]) == {"attention-d1", "convnext-d1-k3", "identity"}
    assert (searched.ranking["state"] == "complete").all()
    assert searched.rungs["head_knn"].between(0, 1).all()
    assert searched.rungs["discrepancy"].notna().all()
    assert searched.facts["base"]["grid"] == [1, 24]


def test_a_search_records_what_the_clips_decided(searched: Run) -> None:
    config = searched.config
    assert (config["domain"], config["image_size"]) == ("audio", None)
    assert (config["sample_rate"], config["clip_seconds"]) == (8000, 0.48)
    assert config["base_arguments"]["patch_size"] == [24, 2]
    assert config["normalization"] != "auto"


def test_the_report_speaks_of_clips(searched: Run) -> None:
    write_report(searched)
    report = (searched.path / "report.md").read_text()
    assert "Raw log-mel" in report
    assert "training clips" in report
    assert "Raw pixels" not in report


def test_a_search_is_resumed_with_the_same_clips(searched: Run) -> None:
    again = resumed_search(searched)
    assert again.prepared.plan.input_shape == InputShape(1, 24, 48, sequence=True)


def test_the_base_is_pretrained_with_a_head_of_the_search(searched: Run, tmp_path: Path) -> None:
    flags = {"out": tmp_path / "solo", "epochs": 1, "rungs": 1}
    solo = Pretraining(prepare_pretraining(flags, run=searched, head="convnext-d1-k3"))
    solo.run()
    arguments = dict(searched.config["base_arguments"])
    trunk = timm.create_model(arguments.pop("timm_name"), num_classes=0, **arguments)
    trunk.load_state_dict(safetensors.torch.load_file(solo.weights))
    assert trunk(torch.zeros(1, 1, 24, 48)).shape[0] == 1
    assert "'input_size': (1, 24, 48)" in solo.loading


@pytest.mark.parametrize("objective", ["mae", "ibot", "byol"])
def test_objectives_with_masks_and_teachers_train_on_clips(searched: Run, objective: str) -> None:
    setup = prepare(config_for(searched.path.parent, objective=objective, out=None)).training
    trainer = setup.new_trainer("joint")
    attach(trainer, setup, head_on(setup.plan, "convnext-d1-k3", searched).candidate)
    for step in range(2):
        trainer.step(setup.new_loader().crops(step), StepPosition(step, setup.steps))
    assert trainer.read().base_sound
    assert all(parameter.isfinite().all() for parameter in trainer.student.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 32}, "--image-size is for --domain image"),
        ({"pretrained": True}, "--pretrained is for --domain image"),
        ({"views": "small"}, "unknown name of views 'small'"),
        ({"domain": "image"}, "--mels is for --domain audio"),
        ({"clip_seconds": 0.1, "hop_ms": 20, "patch_size": 8}, "heads need 1×8 or more"),
    ],
)
def test_settings_that_do_not_fit_clips_are_one_line(
    searched: Run, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        prepare(config_for(searched.path.parent, **{"out": None, **changes}))

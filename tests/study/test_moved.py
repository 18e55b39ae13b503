"""Runs are resumed wherever their data, weights and modules lie: what counts is the content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from headsearch.config.locations import BUILT_IN, TIMM_PREFIXES, absolute_locations
from headsearch.config.settings import resolve
from headsearch.data import factory
from headsearch.data.image.timm_readers import PREFIXES
from headsearch.errors import UserError
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import prepare_again, prepare_pretraining
from headsearch.runs.run import read_run
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers.image_files import png, write
from helpers.stepwise import stepwise
from helpers.tiny_search import settings

SPACE = "families:\n  mine: {module: 'own.py:Mine'}\ncontrols: {identity: }\n"
OWN = """from torch import nn


class Mine(nn.Conv2d):
    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 1)
"""


def images(folder: Path, first: int = 0) -> None:
    write(folder, {f"{k % 2}/{k}.png": png(first + 7 * k, 16) for k in range(96)})


def interrupted(run: Any) -> None:
    """Stops after the first event, as a process does that ends."""
    events = stepwise(run)
    next(events)
    events.close()


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Settings with relative paths, in a folder that is then left for another one."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    images(Path("photos"))
    Path("own.py").write_text(OWN)
    torch.save(
        timm.create_model("test_vit", img_size=16, patch_size=4, depth=2).state_dict(), "w.pth"
    )

    flags = settings(here, SPACE, data="photos", base_weights="w.pth", epochs=2, rungs=1,
                     eval_images=32, bank_images=32, coupling="observe")  # fmt: skip
    flags["space"] = "space.yaml"
    return flags


def test_a_search_with_relative_paths_is_resumed_from_another_folder(
    begun: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(Search(prepare(resolve({**begun, "out": "run"}))).run)
    recorded = yaml.safe_load(Path("run/config.yaml").read_text())
    for name, file in (("data", "photos"), ("base_weights", "w.pth"), ("space", "space.yaml")):
        assert recorded[name] == str(tmp_path / "here" / file)
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed_search(read_run(Path("../here/run"))).run()
    planned = prepare_pretraining({}, run=read_run(Path("../here/run")), head="mine")
    assert planned.candidate is not None


def test_what_was_moved_is_named_and_recognised_by_its_content(
    begun: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(Search(prepare(resolve({**begun, "out": "run"}))).run)
    for name in ("photos", "own.py", "w.pth", "space.yaml"):
        shutil.move(name, tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = read_run(tmp_path / "here" / "run")
    with pytest.raises(UserError, match=r"space\.yaml"):
        resumed_search(run)
    moved = {"data": "photos", "base_weights": "w.pth", "space": "space.yaml"}
    images(Path("others"), first=3000)
    with pytest.raises(UserError, match="the data has changed since the run began") as error:
        resumed_search(run, flags={**moved, "data": "others"})
    assert "\n" not in str(error.value)
    resumed_search(run, flags=moved).run()
    # Later commands find them there as well.
    again = read_run(run.path)
    assert again.config["data"] == str(tmp_path / "elsewhere" / "photos")
    assert prepare_pretraining({}, run=again, head="mine").candidate is not None


def test_a_pretraining_is_resumed_with_what_was_moved(
    begun: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {
        name: begun[name]
        for name in begun
        if name not in ("space", "cohort", "min_keep", "coupling")
    }
    flags["out"] = "p"
    Path("head.yaml").write_text(SPACE.replace("{identity: }", "{}"))
    interrupted(Pretraining(prepare_pretraining(flags, head="head.yaml")).run)
    for name in ("photos", "own.py", "w.pth"):
        shutil.move(name, tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    directory = tmp_path / "here" / "p"
    moved = {"data": "photos", "base_weights": "w.pth", "space": "space.yaml"}
    resumed = Pretraining(prepare_again(directory, flags=moved), directory)
    resumed.run()
    assert resumed.complete


def test_names_stay_names_and_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        "data": "scenes",
        "eval_data": "hfds/a/b#test",
        "space": "heads.yaml",
        "data_dir": None,
    }
    assert absolute_locations(names) == names
    assert absolute_locations({"data": "./scenes"}) == {"data": str(tmp_path / "scenes")}
    found = absolute_locations({"data": "torch/cifar10", "data_dir": None})
    assert found["data_dir"] == str(tmp_path / "data")
    assert factory.BUILT_IN == BUILT_IN
    assert set(PREFIXES) == set(TIMM_PREFIXES)

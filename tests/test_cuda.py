"""What only a GPU can show. Skipped where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import in_process
from tiny_training import HEADS, crops, make_trainer

from headsearch.config import resolve
from headsearch.data.images import ImagesInMemory
from headsearch.feeding import batches
from headsearch.objectives import OBJECTIVES
from headsearch.schedules import Moment

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
CUDA = torch.device("cuda", 0)


@pytest.fixture
def no_syncs() -> Iterator[None]:
    """Whatever happens, the next test may wait for the device again."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("images_per_head", ["all", "share", "2"])
@pytest.mark.parametrize("coupling", ["observe", "joint"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_steps_and_their_crops_wait_for_nothing(
    objective: str, coupling: str, images_per_head: str, no_syncs: None
) -> None:
    trainer = make_trainer(
        list(HEADS)[:3], coupling, objective, dtype=torch.float32, device="cuda",
        images_per_head=images_per_head,
    )  # fmt: skip
    trainer.autocast = True
    pixels = torch.randint(0, 256, (48, 3, 16, 16), dtype=torch.uint8)
    images = ImagesInMemory("noise", pixels, None, ())
    config = resolve({"batch_size": 6})
    for step, views in enumerate(batches(images, config, range(6), CUDA)):
        if step == 2:  # what is made once is made
            torch.cuda.set_sync_debug_mode("error")  # of every wait that torch knows of
        trainer.step(views, Moment(step, 6))
    torch.cuda.set_sync_debug_mode("default")
    health = trainer.read()
    assert health.steps == 6
    assert not health.blamed


@pytest.mark.parametrize("coupling", ["observe", "joint"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_steps_are_those_of_a_cpu(objective: str, coupling: str) -> None:
    """In float64, but for what is drawn on the device: masked patches."""
    if objective in ("ibot", "mae"):
        pytest.skip("masks are drawn on the device, from its own generator")
    states = {}
    for device in ("cpu", "cuda"):
        trainer = make_trainer(list(HEADS), coupling, objective, device=device)
        for step in range(3):
            trainer.step(crops(step).to(device), Moment(step, 10))
        states[device] = trainer.state()
    for name, expected in states["cpu"].items():
        found = states["cuda"][name].cpu()
        if not name.startswith("optimizer.exp_avg_sq"):  # tiny: compared through the weights
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8, msg=name)


def test_a_search_runs_on_it_and_untrained_scores_are_those_of_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rung 0 is scored before any step, in float32: only rounding differs (TF32 products)."""
    scores = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        code, _, err = in_process(
            capsys, monkeypatch,
            "run", "--base", "vit_t", "--base-args", "depth=2,embed_dim=64,num_heads=2",
            "--patch-size", "8", "--image-size", "32", "--space", "heads.yaml", "--trials", "6",
            "--images", "256", "--epochs", "2", "--batch-size", "32", "--rungs", "2",
            "--eval-images", "256", "--bank-images", "256", "--precision", "float32",
            "--device", device, "--out", str(out),
        )  # fmt: skip
        assert code == 0, err
        scores[device] = pd.read_csv(out / "rungs.csv").query("rung == 0").set_index("candidate")
    cpu, cuda = scores["cpu"], scores["cuda"].loc[scores["cpu"].index]
    assert (cpu["discrepancy"] - cuda["discrepancy"]).abs().max() < 5e-3
    assert (cpu["head_knn"] - cuda["head_knn"]).abs().max() < 0.05
    ranking = pd.read_csv(tmp_path / "cuda" / "ranking.csv")
    assert (ranking["state"] == "complete").any()


def test_memory_is_what_torch_allocated_on_the_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = in_process(
        capsys, monkeypatch,
        "bench", "--base", "vit_t", "--image-size", "32", "--batch-size", "16", "--device", "cuda",
        "--heads", "1,2", "--repeats", "1", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert found["machine"]["accelerator"] == torch.cuda.get_device_name(0)
    assert 0 < found["base_peak_memory_mb"] < found["cohorts"][1]["peak_memory_mb"] < 4000

"""What only a GPU can show. Skipped where there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from headsearch.config.settings import resolve
from headsearch.data.image.store import ImagesInMemory
from headsearch.data.loader import Loader
from headsearch.training.cuda_graphs import WARM_UP
from headsearch.training.objectives import OBJECTIVES
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer
from helpers.command_line import in_process
from helpers.tiny_training import DIM, HEADS, backward, crops, make_trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
CUDA = torch.device("cuda", 0)


@pytest.fixture
def no_syncs() -> Iterator[None]:
    """Whatever happens, the next test may wait for the device again."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("cuda_graphs", ["auto", "never"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_steps_and_their_crops_wait_for_nothing(
    objective: str, cuda_graphs: str, no_syncs: None
) -> None:
    coupling = "observe" if cuda_graphs == "auto" else "joint"
    trainer = small_trainer(objective, coupling=coupling, cuda_graphs=cuda_graphs,
                            images_per_head="share")  # fmt: skip
    pixels = torch.randint(0, 256, (48, 3, 16, 16), dtype=torch.uint8)
    images = ImagesInMemory("noise", pixels, None, ())
    config = resolve({"batch_size": 6})
    loader = Loader(images, config, CUDA)
    for step in range(8):
        views = loader.crops(step)
        if step == WARM_UP + 1:  # what is made once is made
            torch.cuda.set_sync_debug_mode("error")  # of every wait that torch knows of
        trainer.step(views, StepPosition(step, 8))
    torch.cuda.set_sync_debug_mode("default")
    assert trainer.settled
    stats = trainer.read()
    assert stats.steps == 8
    assert not stats.blamed


def small_trainer(objective: str, **settings: Any) -> Trainer:
    """In float32 with products in bfloat16."""
    trainer = make_trainer(
        list(HEADS)[:3], objective=objective, dtype=torch.float32, device="cuda", **settings
    )
    trainer.autocast = True
    return trainer


def cuda_crops(seed: int) -> Tensor:
    return crops(seed, dtype=torch.float32).to("cuda")


@pytest.mark.parametrize("settings", [
    {}, {"coupling": "observe", "images_per_head": "2"}, {"drop_path": 0.5},
])  # fmt: skip
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_recorded_steps_are_those_taken_one_by_one(
    objective: str, settings: dict[str, Any]
) -> None:
    """Masks, paths, temperatures and rates move on; a head leaves; a step is not finite."""
    plain, recorded = (
        small_trainer(objective, cuda_graphs=graphs, **settings) for graphs in ("never", "auto")
    )
    for step in range(16):
        for trainer in (plain, recorded):
            if step == 8:
                assert trainer.settled
                trainer.detach("attention")
                assert trainer.settled == (trainer is plain)
            views = cuda_crops(step)
            trainer.step(views * math.inf if step == 14 else views, StepPosition(step, 20))
            if step == 5:
                assert trainer.read().steps == 6
    expected, found = plain.state(), recorded.state()
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)
    for trainer in (plain, recorded):
        stats = trainer.read()
        assert stats.steps == 8  # 6 … 13
        trainer.step(cuda_crops(16), StepPosition(14, 20))
        assert trainer.read().steps == 1


class Waits(nn.Module):
    """A head that reads a number back from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, map_BDHW: Tensor) -> Tensor:
        return map_BDHW * self.weight * (1.0 + 0.0 * float(map_BDHW.detach().mean()))


def test_a_head_that_waits_for_the_device_is_trained_all_the_same() -> None:
    """Its steps cannot be recorded; other heads, later, can be again."""
    plain, trainer = (small_trainer("simclr", cuda_graphs=graphs) for graphs in ("never", "auto"))
    for each in (plain, trainer):
        each.attach("waits", Waits, DIM)
    for step in range(WARM_UP):
        trainer.step(cuda_crops(step), StepPosition(step, 10))
    with pytest.warns(UserWarning, match="steps could not be recorded, and are slower for it"):
        trainer.step(cuda_crops(WARM_UP), StepPosition(WARM_UP, 10))
    assert trainer.settled
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    for step in range(WARM_UP + 1):
        plain.step(cuda_crops(step), StepPosition(step, 10))
    for name, expected in plain.state().items():
        torch.testing.assert_close(trainer.state()[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    trainer.detach("waits")
    for step in range(3, 6):
        assert not trainer.settled
        trainer.step(cuda_crops(step), StepPosition(step, 10))
    assert trainer.settled
    assert trainer.read().steps == 6


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_losses_and_gradients_are_those_of_a_cpu(objective: str) -> None:
    """In float64, but for what is drawn on the device: masked patches."""
    if objective in ("ibot", "mae"):
        pytest.skip("masks are drawn on the device, from its own generator")
    position = StepPosition(3, 10)
    on_cpu, on_cuda = (
        make_trainer(list(HEADS), "joint", objective, device=device) for device in ("cpu", "cuda")
    )
    found = backward(on_cuda, crops().to("cuda"), position)
    for name, expected in backward(on_cpu, crops(), position).items():
        torch.testing.assert_close(found[name].cpu(), expected, rtol=1e-8, atol=1e-12, msg=name)


@pytest.fixture
def all_recorded(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """Sees to it that no step had to be taken one by one."""
    yield
    assert not [each for each in recwarn if "could not be recorded" in str(each.message)]


@pytest.mark.usefixtures("all_recorded")
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


@pytest.mark.usefixtures("all_recorded")
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

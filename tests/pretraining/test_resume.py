"""What is left of a pretraining after any end, and what becomes of it: always the same weights."""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import headsearch
from headsearch.cli import main
from headsearch.errors import UserError
from headsearch.models.bases import plan_base
from headsearch.pretraining import run
from headsearch.pretraining.run import Pretraining, has_ended
from headsearch.pretraining.setup import PretrainingSetup, prepare_again, prepare_pretraining
from headsearch.pretraining.step_file import read_step
from headsearch.runs import snapshot
from headsearch.runs.snapshot import FOLDER
from headsearch.training.inputs import InMemoryInputs
from helpers.in_ranks import ForkedJob
from helpers.stepwise import stepwise

TRAINING: dict[str, Any] = {
    "base": "test_vit", "image_size": 16, "patch_size": 4, "images": 48, "epochs": 4,
    "batch_size": 16, "rungs": 3, "eval_images": 64, "bank_images": 64, "device": "cpu",
    "precision": "float32", "threads": 1,
}  # fmt: skip
HEADS = {"with a head": "convnext-d1-k3-noshortcut", "the base alone": "none"}


def planned(out: Path, head: str = "none", **changes: Any) -> PretrainingSetup:
    return prepare_pretraining({**TRAINING, "out": str(out), **changes}, head=head)


def flags(settings: dict[str, Any]) -> list[str]:
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items())
    return [part for pair in pairs for part in pair]


def finish(running: Pretraining) -> Path:
    running.run()
    return running.run_directory


def left(directory: Path) -> dict[str, bytes]:
    """What a pretraining leaves beside its settings, which name the directory."""
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert {"pretrain.csv", "base.safetensors"} <= files.keys()
    return {name: files[name] for name in ("pretrain.csv", "base.safetensors")}


@pytest.fixture(scope="module", params=HEADS)
def head(request: pytest.FixtureRequest) -> str:
    return HEADS[request.param]


@pytest.fixture(scope="module")
def whole(head: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(Pretraining(planned(tmp_path_factory.mktemp("whole") / "p", head)))


def test_one_that_is_stopped_again_and_again_ends_as_if_it_never_was(
    head: str, whole: Path, tmp_path: Path
) -> None:
    """At every event, closed at it or told to stop: in the midst of rungs and at them."""
    directory = tmp_path / "p"
    running, stops = Pretraining(planned(directory, head)), 0
    while True:
        events = stepwise(running.run)
        next(events)
        if stops % 2:
            running.stop.set()
            assert len(list(events)) <= 1  # of the step under way
        events.close()
        if running.complete:
            break
        stops += 1
        running = Pretraining(prepare_again(directory), directory)
        assert running.notes[-1].startswith("resuming from the last snapshot: step ")
    assert stops > TRAINING["rungs"] + 1
    assert left(directory) == left(whole)


def test_a_snapshot_by_the_clock_holds_what_was_not_read_yet(
    whole: Path, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process is killed after one: each is set aside and gone on from."""
    kept: list[Path] = []
    write = snapshot.write_snapshot

    def one(directory: Path, taken: snapshot.Snapshot) -> None:
        write(directory, taken)
        copy = tmp_path / f"copy-{len(kept)}"
        write(copy_of(directory, copy), taken)
        kept.append(copy)

    def copy_of(directory: Path, copy: Path) -> Path:
        copy.mkdir()
        (copy / "config.yaml").write_bytes((directory / "config.yaml").read_bytes())
        return copy

    monkeypatch.setattr("headsearch.training.loop.READ_EVERY", 2)
    with monkeypatch.context() as patched:
        patched.setattr(run, "write_snapshot", one)
        finish(Pretraining(planned(tmp_path / "p", head, snapshot_every=1e-9)))
    assert len(kept) > 2 * TRAINING["rungs"]
    expected = left(tmp_path / "p")
    for copy in kept[::3]:
        assert left(finish(Pretraining(prepare_again(copy), copy))) == expected, copy
    assert expected["base.safetensors"] == left(whole)["base.safetensors"]


def test_one_that_was_killed_at_random_comes_to_the_same(
    whole: Path, head: str, tmp_path: Path
) -> None:
    """SIGKILL, up to four times; whatever is there then is what the next process goes on from."""
    draw, directory, kills = random.Random(3), tmp_path / "p", 0
    begin = ["pretrain", "--head", head, "--out", directory, "--snapshot-every", "0.0001"]
    while True:
        begun = (directory / "config.yaml").exists()  # a kill may come between it and the folder
        command = ["resume", directory] if begun else [*begin, *flags(TRAINING)]
        process = ForkedJob(1, "-m", "headsearch", *command)
        if kills < 4 and not process.ends_within(draw.uniform(0.1, 1.5)):
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            kills += 1
            continue
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        if "is complete: there is nothing to resume" in out.replace("\n", " "):
            break
    assert kills
    assert left(directory) == left(whole)


def test_once_ended_there_is_nothing_to_resume(
    whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (whole / FOLDER).exists()
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["headsearch", "resume", str(whole)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "is complete: there is nothing to resume" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(UserError, match="is complete: there is nothing to resume"):
        headsearch.resume_pretraining(whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_sigterm_ends_it_with_a_snapshot(tmp_path: Path) -> None:
    begin = ["pretrain", "--head", "none", "--out", tmp_path / "p"]
    process = ForkedJob(1, "-m", "headsearch", *begin, *flags({**TRAINING, "epochs": 2000}))
    process.wait_until_it_says("rung 0")
    while not read_step(tmp_path / "p")[0]:
        assert not process.ends_within(0.02)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert f"headsearch resume {tmp_path / 'p'} continues from here" in out
    found = snapshot.read_snapshot(tmp_path / "p")
    assert found is not None
    assert found.record["step"] > 0


def test_first_weights_that_have_changed_are_told(whole: Path, tmp_path: Path) -> None:
    directory, weights = tmp_path / "p", tmp_path / "first.safetensors"
    weights.write_bytes((whole / "base.safetensors").read_bytes())
    events = stepwise(Pretraining(planned(directory, base_weights=str(weights))).run)
    next(events)
    events.close()
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights)
    with pytest.raises(UserError, match="first_weights has changed since the run began"):
        Pretraining(prepare_again(directory), directory)


class Base(nn.Module):
    """A map of 4×4 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.patches(images)


def test_what_was_given_in_python_is_given_again(tmp_path: Path) -> None:
    settings = {name: value for name, value in TRAINING.items() if name not in ("base",)}
    settings.pop("patch_size")
    whole = headsearch.pretrain(
        head="none", base=seeded(), out=tmp_path / "whole", progress=False, **settings
    )
    inputs = prepare_pretraining(
        {**settings, "out": str(tmp_path / "p"), "base": "Base"},
        head="none", inputs=InMemoryInputs(base=seeded()),
    )  # fmt: skip
    running = Pretraining(inputs)
    events = stepwise(running.run)
    next(events)
    next(events)
    events.close()
    with pytest.raises(UserError, match=r"headsearch\.resume_pretraining\(…, base=…\)"):
        headsearch.resume_pretraining(tmp_path / "p")
    done = headsearch.resume_pretraining(tmp_path / "p", base=seeded(), progress=False)
    assert done.weights.read_bytes() == whole.weights.read_bytes()


def seeded() -> Base:
    torch.manual_seed(3)
    return Base()


def test_a_search_is_no_pretraining(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("base: test_vit\n")
    with pytest.raises(UserError, match="a search, not a pretraining"):
        prepare_again(tmp_path)


@pytest.mark.parametrize("content", ["", "step\n3\n"], ids=["empty", "another"])
def test_a_broken_table_is_written_again(content: str, whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "p"
    events = stepwise(Pretraining(planned(directory)).run)
    next(events)
    events.close()
    (directory / "pretrain.csv").write_text(content)
    assert not has_ended(directory)
    finish(Pretraining(prepare_again(directory), directory))
    assert has_ended(directory)


def test_a_base_that_was_fitted_for_another_kind_of_device_goes_on(tmp_path: Path) -> None:
    """A search on an accelerator fits finer patches; a pretraining from it keeps them on a CPU."""
    directory = tmp_path / "p"
    settings = {**TRAINING, "base": "vit_t", "image_size": 64, "images": 32, "batch_size": 8,
                "epochs": 1, "rungs": 1, "out": str(directory)}  # fmt: skip
    del settings["patch_size"]
    here = prepare_pretraining(settings, head="none").setup.plan
    finer = plan_base("vit_t", 64, accelerator=True)
    assert here.arguments != finer.arguments
    found = prepare_pretraining(settings, head="none", inputs=InMemoryInputs(base=finer))
    events = stepwise(Pretraining(found).run)
    next(events)
    events.close()
    again = prepare_again(directory)
    assert again.setup.plan.arguments == finer.arguments
    finish(Pretraining(again, directory))

"""Several processes that train one cohort: they come to what one process comes to.

Real jobs over gloo on the CPU: by torchrun where a job is stopped, as in test_slurm.py, else
forked, which spares each process the imports.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from headsearch.runs.run import read_run
from headsearch.runs.snapshot import read_snapshot
from headsearch.training.sync_batchnorm import BatchNormOverRanks, statistics_over_all
from helpers.command_line import in_process
from helpers.image_files import encoded, photo, write
from helpers.in_ranks import ForkedJob, torchrun

pytestmark = pytest.mark.usefixtures("without_reports")
JOBS = Path(__file__).parents[1] / "helpers" / "jobs"
SPACE = """
families:
  attention: {depth: 1}
  convnext: {depth: 1, kernel: 3, first_shortcut: [true, false]}
  bottleneck: {depth: 1}
  poolformer: {depth: 1}
controls:
  identity:
"""
LOSSES = 0.03
"""How far losses of two jobs may be apart after 24 steps in float32. Sums in another order differ
by 1e-7 at first, which Adam enlarges where a gradient is about 0: 0.007 was seen. In float64,
below, nothing is left of it."""


def flags(tmp_path: Path, **changes: Any) -> list[str]:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    settings = {
        "base": "test_vit", "base_args": "depth=2", "space": space, "image_size": 16,
        "patch_size": 4, "images": 48, "epochs": 8, "batch_size": 16, "rungs": 3,
        "eval_images": 64, "bank_images": 64, "min_keep": 2, "cohort": 6, "device": "cpu",
        "precision": "float32", "threads": 1, "rank_by": "discrepancy", "coupling": "joint",
        **changes,
    }  # fmt: skip
    return [
        part
        for name, value in settings.items()
        if value is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def headsearch(processes: int, *arguments: str | Path) -> ForkedJob:
    return ForkedJob(processes, "-m", "headsearch", *arguments)


def ended_well(job: subprocess.Popen[str] | ForkedJob) -> str:
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err[-3000:]
    return out


def processes_of(run: Path) -> int:
    """The number of processes that a run says it was trained by."""
    return int(yaml.safe_load((run / "config.yaml").read_text())["processes"])


def until(job: subprocess.Popen[str], done: Callable[[], bool]) -> None:
    for _ in range(2400):
        if done():
            return
        assert job.poll() is None, (job.stderr.read() if job.stderr else "")[-3000:]
        time.sleep(0.05)
    raise AssertionError("it did not come so far")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search by one process."""
    folder = tmp_path_factory.mktemp("one")
    ended_well(headsearch(1, "run", *flags(folder), "--out", folder / "run"))
    return folder / "run"


def same_up_to_rounding(first: Path, second: Path) -> None:
    """The same ranking and fates; losses and discrepancies apart by what rounding comes to."""
    rankings = [pd.read_csv(run / "ranking.csv", dtype=str) for run in (first, second)]
    for column in ("rank", "candidate", "cohort", "state", "rungs", "reason"):
        assert list(rankings[0][column].fillna("")) == list(rankings[1][column].fillna("")), column
    rows = [pd.read_csv(run / "rungs.csv") for run in (first, second)]
    for column in ("candidate", "rung", "step"):
        assert list(rows[0][column]) == list(rows[1][column])
    for column, apart in (("loss", LOSSES), ("discrepancy", 0.02)):
        pd.testing.assert_series_equal(rows[0][column], rows[1][column], rtol=0, atol=apart)


def test_steps_of_two_processes_are_those_of_one_with_the_same_images(tmp_path: Path) -> None:
    """Every objective, both couplings, batch norms in base, heads and projectors, in float64."""
    script = JOBS / "steps_in_ranks.py"
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    ended_well(ForkedJob(1, script, one))
    ended_well(ForkedJob(2, script, two))
    alone, together = load_file(one), load_file(two)
    assert (alone.pop("processes"), together.pop("processes")) == (1, 2)
    assert alone.keys() == together.keys()
    assert sum("loss of" in name for name in alone) > 100
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-6, atol=1e-6, msg=name)


def test_statistics_of_two_processes_count_each_place_with_data_once(tmp_path: Path) -> None:
    """Batch norms of heads (outputs, gradients, running statistics), iBOT's centre; in float64."""
    script = JOBS / "padding_in_ranks.py"
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    ended_well(ForkedJob(1, script, one))
    ended_well(ForkedJob(2, script, two))
    alone, together = load_file(one), load_file(two)
    assert alone.keys() == together.keys()
    assert sum("running_var" in name for name in alone) > 20
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-9, atol=1e-9, msg=name)


def test_a_search_by_two_processes_ranks_as_one_by_one(tmp_path: Path, whole: Path) -> None:
    job = headsearch(2, "run", *flags(tmp_path), "--out", tmp_path / "run")
    out = ended_well(job)
    same_up_to_rounding(whole, tmp_path / "run")
    assert "2 processes" in out
    assert out.count("rung 3/3") == 1, "only the first process prints"
    assert read_run(tmp_path / "run").config["processes"] == 2


def test_absorption_by_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """With dino, for which nothing is fitted first, so that only rounding is left."""
    changes = {"rank_by": "absorption", "coupling": "observe", "objective": "dino", "epochs": 1,
               "rungs": 1}  # fmt: skip
    found = []
    for processes in (1, 2):
        out = tmp_path / f"run-{processes}"
        ended_well(headsearch(processes, "run", *flags(tmp_path, **changes), "--out", out))
        assert processes_of(out) == processes
        found.append(pd.read_csv(out / "scores.csv").set_index(["rung", "candidate"])["absorption"])
    assert found[0].notna().all()
    pd.testing.assert_series_equal(*found, rtol=0, atol=1e-3)


def test_a_process_that_dies_ends_the_job_which_one_alone_can_go_on_with(
    tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    job = ForkedJob(2, JOBS / "one_dies.py", "run", *flags(tmp_path), "--out", run)
    _, err = job.communicate(timeout=300)
    assert job.returncode != 0
    assert "another of the" in err
    assert "headsearch resume" in err
    assert "GLHF" not in err
    assert read_run(run).facts["status"] == "interrupted"
    left = read_snapshot(run)
    assert left is not None
    assert left.record["rung"] == 2
    ended_well(headsearch(1, "resume", run))
    assert read_run(run).facts["status"] == "complete"
    same_up_to_rounding(whole, run)


def test_a_job_that_is_told_to_stop_leaves_a_snapshot(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    job = torchrun(2, "-m", "headsearch", "run", *flags(tmp_path), "--out", run)
    until(job, lambda: (run / "rungs.csv").is_file() and len(pd.read_csv(run / "rungs.csv")) > 0)
    job.send_signal(signal.SIGTERM)  # torchrun hands it on
    out, _ = job.communicate(timeout=300)
    assert "resume" in out
    assert read_run(run).facts["status"] == "interrupted"
    ended_well(headsearch(1, "resume", run))
    same_up_to_rounding(whole, run)


def test_a_pretraining_by_two_processes_comes_to_that_of_one(tmp_path: Path) -> None:
    common = flags(tmp_path, space=None, min_keep=None, cohort=None, rank_by=None, coupling=None)
    tables = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        ended_well(headsearch(
            processes, "pretrain", *common, "--objective", "dino", "--head", "convnext-d1-k3",
            "--out", out,
        ))  # fmt: skip
        assert processes_of(out) == processes
        tables[processes] = pd.read_csv(out / "pretrain.csv")
        assert (out / "base.safetensors").is_file()
    for column, apart in (("loss", LOSSES), ("effective_rank", 0.3), ("discrepancy", 0.02)):
        pd.testing.assert_series_equal(tables[1][column], tables[2][column], rtol=0, atol=apart)


def test_a_module_of_ones_own_starts_alike_in_all_processes(tmp_path: Path) -> None:
    """Each process makes its own, with weights of its own; all train the first one's."""
    job = ForkedJob(2, JOBS / "custom_modules.py", tmp_path)
    ended_well(job)
    first, second = (load_file(tmp_path / f"{number}.safetensors") for number in range(2))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--batch-size", "33"], "a --batch-size that is a multiple of 2"),
        (["run", "--dry-run"], "--dry-run measures one process"),
        (["run", "--download"], "fetch them before, by one alone"),
        (["space", "heads.yaml"], "space works in one process"),
    ],
)
def test_what_a_job_cannot_do_is_told_before_anything_is_exchanged(
    tmp_path: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_: None)
    command, *more = arguments
    common = [*flags(tmp_path), "--out", str(tmp_path / "run")] if command == "run" else []
    code, _, err = in_process(capsys, monkeypatch, command, *common, *more)
    assert code == 2
    assert words in err
    assert not (tmp_path / "run").exists()


def test_a_refused_job_ends_with_a_line_of_each_process(tmp_path: Path) -> None:
    job = headsearch(2, "run", *flags(tmp_path, images_per_head=16), "--out", tmp_path / "run")
    _, err = job.communicate(timeout=300)
    assert job.returncode != 0
    for rank in (0, 1):
        assert f"headsearch, rank {rank}: --images-per-head 16 is for one process" in err
    assert 'File "' not in err.partition("torch/distributed")[0], "a traceback of our own"
    assert not (tmp_path / "run").exists()


def test_processes_with_other_data_are_refused(tmp_path: Path) -> None:
    job = ForkedJob(2, JOBS / "other_data.py", "run", *flags(tmp_path), "--out", tmp_path / "run")
    _, err = job.communicate(timeout=300)
    assert job.returncode != 0
    assert "of this job differ in images: " in err


def test_processes_share_the_decoding_of_bank_and_queries(tmp_path: Path) -> None:
    """Each decodes half of the photos, and all have them all, as one process has them."""
    for part, count in {"train": 40, "eval": 41}.items():
        files = {
            f"{name}/{i}.png": encoded(photo(i + 100 * (name == "b")))
            for name in "ab"
            for i in range(count)
        }
        write(tmp_path / part, files | {"b/40.png": b"no image"} if part == "eval" else files)
    found = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        script = (JOBS / "shared_probes.py", tmp_path / "train", tmp_path / "eval", out)
        job = ForkedJob(processes, *script)
        _, err = job.communicate(timeout=300)
        assert job.returncode == 0, err
        found[processes] = [torch.load(out / f"{rank}.pt") for rank in range(processes)]
    (alone,) = found[1]
    assert alone["decoded"] == sum(each["decoded"] for each in found[2])
    assert len(alone["left out"]) == 1
    for each in found[2]:
        assert each["decoded"] <= alone["decoded"] / 2 + 1
        assert each["left out"] == alone["left out"]
        for name in ("bank", "queries", "labels"):
            assert torch.equal(each[name], alone[name])


def test_a_run_alone_knows_nothing_of_ranks(whole: Path) -> None:
    assert processes_of(whole) == 1


def test_batch_norm_over_ranks_is_batch_norm_where_there_is_one() -> None:
    """Against torch's own, in both directions, and its running statistics."""
    generator = torch.Generator().manual_seed(0)
    x = (100 + torch.randn(6, 3, 4, 4, generator=generator)).double()
    given = [torch.randn(3, generator=generator).double() for _ in range(2)]
    found = []
    for over_ranks in (False, True):
        weight, bias, inputs = (t.clone().requires_grad_() for t in (*given, x))
        running = [torch.zeros(3).double(), torch.ones(3).double()]
        with BatchNormOverRanks() if over_ranks else statistics_over_all():
            out = F.batch_norm(inputs, *running, weight, bias, training=True, momentum=0.3)
            kept = F.batch_norm(inputs, *running, weight, bias, training=False)
        gradients = torch.autograd.grad(out.square().sum(), [inputs, weight, bias])
        found.append([out, kept, *running, *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)

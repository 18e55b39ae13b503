"""`explain` on the solo runs of a small search: tables, pictures, what is missing, what is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import headsearch
from headsearch.cli.commands import app
from headsearch.errors import UserError
from headsearch.models.network import AttachedHead
from headsearch.pretraining.explaining import parts, result_view, session
from headsearch.pretraining.explaining.bases import Bases
from headsearch.pretraining.explaining.compare import ANALYSES
from headsearch.pretraining.explaining.forward import grouped
from headsearch.pretraining.explaining.subjects import comparison
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.pretraining.verification import Verification
from headsearch.report import document
from headsearch.report.findings import FINDING_COLUMNS, MEASURES
from headsearch.runs.run import read_run
from helpers.search_in_python import searched

HEAD, OWN = "convnext-d1-k3-noshortcut", "own-d1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search, and the solo runs that `verify` would leave, trained in this process."""
    out = searched(tmp_path_factory.mktemp("explained") / "run", eval_images=96)
    for seed in (0, 1):
        for head in ("none", OWN, HEAD):
            headsearch.pretrain(
                out, head=head, seed=seed, data_seed=0, rungs=1, progress=False,
                out=out / "solo" / f"{head}-seed{seed}",
            )  # fmt: skip
    Verification(read_run(out), top=1, seeds=2, device="cpu").write()
    return out


@pytest.fixture(scope="module")
def done(run: Path) -> str:
    result = CliRunner().invoke(app, ["explain", str(run), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no pictures and writes no report, which takes most of the time."""
    monkeypatch.setattr(session, "draw", lambda *_: None)
    monkeypatch.setattr(result_view, "write_report", lambda *_: None)
    monkeypatch.setattr(document, "write_report", lambda *_: None)


def test_the_command_writes_tables_and_pictures_and_says_what_was_compared(
    run: Path, done: str
) -> None:
    folder = run / "explain"
    assert f"tables and pictures: {folder}" in done
    assert f"{HEAD} beside no head and the base's own kind of head" in " ".join(done.split())
    assert sum(" seed " in line and "/" in line.split()[0] for line in done.splitlines()) == 8
    findings = pd.read_csv(folder / "findings.csv")
    assert tuple(findings.columns) == FINDING_COLUMNS
    assert set(findings["model"]) == {HEAD}
    assert set(findings["reference"]) == {"none"}
    assert list(dict.fromkeys(findings["analysis"])) == [*MEASURES]
    assert findings[["value", "low", "high", "floor", "own"]].notna().all(axis=None)
    measured = pd.read_csv(folder / "measurements.csv")
    assert set(measured["model"]) == {"untrained", "none", OWN, HEAD}
    pictures = {path.name for path in folder.glob("*.svg")}
    assert pictures == {*(f"{name}.svg" for name in MEASURES), "change_blocks.svg"}
    with Image.open(folder / "looks.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.usefixtures("undrawn")
def test_what_was_measured_is_not_measured_again_unless_the_weights_changed(
    run: Path, done: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert done
    copy = shutil.copytree(run, tmp_path / "run")
    measured: list[str] = []
    for name, measure in parts.PARTS.items():

        def counting(
            of: parts.Measured, name: str = name, measure: object = measure
        ) -> dict[str, torch.Tensor]:
            measured.append(name)
            found: dict[str, torch.Tensor] = measure(of)  # type: ignore[operator]
            return found

        monkeypatch.setitem(session.PARTS, name, counting)  # type: ignore[arg-type]
    before = (copy / "explain" / "findings.csv").read_bytes()
    headsearch.load(copy).explain(device="cpu", progress=False)
    assert measured == []
    assert (copy / "explain" / "findings.csv").read_bytes() == before
    other = copy / "solo" / f"{HEAD}-seed1" / "head.safetensors"
    shutil.copyfile(copy / "solo" / f"{HEAD}-seed0" / "head.safetensors", other)
    headsearch.load(copy).explain(device="cpu", only="toward", progress=False)
    assert measured == ["head"]


def test_python_gives_the_findings_of_the_analyses_that_were_asked_for(
    run: Path, done: str, tmp_path: Path
) -> None:
    assert done
    result = headsearch.load(shutil.copytree(run, tmp_path / "run"))
    assert len(result.findings)
    found = result.explain(HEAD, only=["probes", "frequency"], device="cpu", progress=False)
    assert set(found.findings["analysis"]) == {"knn", "linear", "frequency"}
    assert len(found.sentences) == (found.findings["verdict"] != "").sum()
    assert {path.name for path in found.folder.glob("*.svg")} == {
        "knn.svg", "linear.svg", "frequency.svg",
    }  # fmt: skip
    pd.testing.assert_series_equal(result.findings["value"], found.findings["value"], rtol=1e-4)


def test_the_report_shows_what_was_found(run: Path, done: str) -> None:
    assert done
    page = (run / "report.html").read_text()
    assert "What the base learned from its head" in page
    assert page.count("data:image/svg+xml;base64,") == len(MEASURES) + 1
    text = (run / "report.md").read_text()
    assert "](explain/change_blocks.svg)" in text
    assert "comparisons" in text


def test_bases_and_heads_have_the_weights_of_their_solo_runs(run: Path) -> None:
    found = read_run(run)
    setup = prepare_pretraining({}, run=found, head="none").setup
    bases, subjects = Bases(found, setup), comparison(found).subjects
    by_name = {(each.name, each.seed): each for each in subjects}
    kept = load_file(run / "solo" / f"{HEAD}-seed1" / "base.safetensors")
    loaded = bases.base(by_name[HEAD, 1]).trunk.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in kept.items())
    first = bases.base(by_name["untrained", 1]).trunk.state_dict()
    assert any(not torch.equal(first[name], tensor) for name, tensor in kept.items())
    head = bases.head(by_name[HEAD, 1])
    assert isinstance(head, AttachedHead)
    tokens = head(torch.randn(1, setup.plan.dim, *setup.plan.grid))
    assert tokens.shape == (1, 16, setup.plan.dim)


@pytest.mark.usefixtures("undrawn")
def test_heads_of_earlier_versions_were_not_kept_and_the_rest_is_explained(
    run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "solo" / f"{HEAD}-seed1" / "head.safetensors").unlink()
    result = CliRunner().invoke(
        app, ["explain", str(copy), "--device", "cpu", "--only", "toward,probes"]
    )
    assert result.exit_code == 0, result.output
    assert f"{HEAD} seed 1: the head was not kept" in " ".join(result.output.split())
    assert "toward_r2 does not apply here: it needs the trained heads" in result.output
    assert set(pd.read_csv(copy / "explain" / "findings.csv")["analysis"]) == {"knn", "linear"}


@pytest.mark.usefixtures("undrawn")
def test_one_seed_is_shown_and_nothing_is_said_of_it(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for name in ("none", OWN, HEAD):
        shutil.rmtree(copy / "solo" / f"{name}-seed1")
    result = CliRunner().invoke(
        app, ["explain", str(copy), "--device", "cpu", "--only", "change,probes"]
    )
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "one seed: differences are shown" in words
    assert "--top 1 --seeds 2` adds a second" in words.replace("--top 3", "--top 1")
    assert "With one seed nothing can be said" in words
    findings = pd.read_csv(copy / "explain" / "findings.csv")
    assert findings["value"].notna().all()
    assert findings[["low", "high", "floor", "verdict"]].isna().all(axis=None)


def test_what_cannot_be_explained_is_told_in_one_line(run: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        with pytest.raises(UserError) as error:
            CliRunner().invoke(app, ["explain", *arguments], catch_exceptions=False)
        return str(error.value)

    assert "unknown analysis 'probe'; did you mean 'probes'" in said(str(run), "--only", "probe")
    assert "unknown head 'mixer'" in said(str(run), "--head", "mixer")
    bare = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(bare / "solo")
    assert f"`headsearch verify {bare} --top 3 --seeds 2` makes them" in said(str(bare))


def test_blocks_are_held_together_as_far_as_memory_allows() -> None:
    assert grouped({1: 4, 2: 4, 3: 9, 4: 1}, 8) == [[1, 2], [3], [4]]
    assert [*ANALYSES] == [
        "change", "toward", "reach", "frequency", "probes", "cues", "decisions", "looks",
    ]  # fmt: skip

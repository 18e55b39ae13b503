"""What a user of clips reads, from the first line of `run` to the report: clips, never images."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest
from typer.testing import CliRunner

import headsearch
from headsearch.cli.commands import app
from headsearch.config.domains import AUDIO, WORDS
from headsearch.data.fingerprint import difference
from headsearch.pretraining.verification import Verification
from headsearch.runs.run import read_run
from helpers.clips import tone_folder

SPACE = """
families:
  convnext: {depth: 1, kernel: 3, first_shortcut: false}
controls:
  own: {depth: 1}
"""
HEAD, OWN = "convnext-d1-k3-noshortcut", "own-d1"
TRAINING = [
    "--base", "test_vit", "--epochs", "1", "--batch-size", "32", "--rungs", "1", "--mels", "16",
    "--eval-images", "64", "--bank-images", "64", "--threads", "1", "--device", "cpu",
]  # fmt: skip
SETTINGS = (
    "images", "eval_images", "bank_images", "max_bad_images", "check_images", "image_size",
    "images_per_head",
)  # fmt: skip
"""Names of settings, which are the same in all domains: the report lists them, flags have them."""


def printed(*arguments: str) -> str:
    """What a command prints into a pipe; it must end well."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command prints and writes about one small search on clips, by name."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "space.yaml").write_text(SPACE)
    data = str(tone_folder(folder / "tones", each=24))
    search = ["--data", data, "--space", str(folder / "space.yaml"), *TRAINING]
    run = folder / "run"
    told = {"dry run": printed("run", *search, "--dry-run")}
    told["run"] = printed("run", *search, "--out", str(run))
    for seed in (0, 1):
        for head in ("none", OWN, HEAD):
            headsearch.pretrain(
                run, head=head, seed=seed, data_seed=0, rungs=1, progress=False,
                out=run / "solo" / f"{head}-seed{seed}",
            )  # fmt: skip
    Verification(read_run(run), top=1, seeds=2, device="cpu").write()
    told["explain"] = printed("explain", str(run), "--device", "cpu")
    solo, beside = str(folder / "solo"), folder / "beside"
    told["pretrain"] = printed("pretrain", str(run), "--head", "none", "--out", solo)
    told["export"] = printed("export", str(run), "--head", HEAD)
    told["watch"] = printed("watch", str(run))
    told["report"] = printed("report", str(run))
    shutil.copytree(run, folder / "other")
    told["compare"] = printed("compare", str(run), str(folder / "other"), "--out", str(beside))
    printed("plot", str(run), "--x", "images", "--y", "gflops", "--out", str(folder / "plot.svg"))
    written = [
        *run.glob("*.md"), *run.glob("plots/*.svg"), *run.glob("explain/*.svg"),
        run / "explain" / "findings.csv", *run.glob("heads/*"), beside / "compare.md",
    ]  # fmt: skip
    told |= {path.name: path.read_text() for path in written}
    told["report.html"] = visible((run / "report.html").read_text())
    return told


def visible(page: str) -> str:
    """What a browser shows of a page without its scripts and pictures."""
    without = re.sub(r"<(script|style|svg)\b.*?</\1>|data:[\w/+]+;base64,[\w+/=]+", "", page,
                     flags=re.DOTALL)  # fmt: skip
    return re.sub(r"<[^>]+>", " | ", without)


def images_in(text: str) -> list[str]:
    """The places of a text that speak of images, but for the names of settings."""
    text = text.replace("\\_", "_")
    names = "|".join(sorted(SETTINGS, key=len, reverse=True))
    flags = names.replace("_", "-")
    known = rf"--({flags})\b|\|\s*({names})\s*\||, images \d+,"
    return [
        text[max(0, found.start() - 60) : found.end() + 40]
        for found in re.finditer("image|photo|pixel", re.sub(known, "", text), re.IGNORECASE)
    ]


@pytest.mark.parametrize(
    "name",
    [
        "dry run", "run", "explain", "pretrain", "export", "watch", "report", "compare",
        "report.md", "report.html", "findings.csv", "compare.md", f"{HEAD}.yaml",
    ],
)  # fmt: skip
def test_what_is_printed_and_written_of_clips_speaks_of_clips(
    told: dict[str, str], name: str
) -> None:
    assert len(told[name]) > 20
    assert images_in(told[name]) == []
    assert "{sample" not in told[name].lower()
    assert "{points" not in told[name]


def test_pictures_of_clips_speak_of_clips(told: dict[str, str]) -> None:
    pictures = [name for name in told if name.endswith(".svg")]
    assert {"scores_over_rungs.svg", "cues.svg", "field.svg"} <= set(pictures)
    for name in pictures:
        shown = " ".join(re.findall(r"<!-- (.*?) -->", told[name]))  # letters are outlines
        assert shown, name
        assert images_in(shown) == [], name
    assert "Clips seen (thousands)" in told["scores_over_rungs.svg"]
    assert "Receptive field (time steps)" in told["field.svg"]
    assert "swapped spectrum" in told["cues.svg"]


def test_speed_and_cost_are_those_of_clips(told: dict[str, str]) -> None:
    assert "clips/s" in told["run"]
    assert "GFLOPs a clip" in told["run"]
    assert "ms a step of 32 clips" in told["dry run"]
    assert "head's summary of a clip" in told[f"{HEAD}.py"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": 90}, "training clips: 96 clips here, and 90 there"),
        ({"image_size": [16, 64]}, "training clips: [16, 48] clip_size here, and [16, 64] there"),
        ({"pixels": [90]}, "training clips: other clips, or the same in another order"),
    ],
)
def test_data_that_changed_are_said_to_be_other_clips(changed: dict[str, Any], said: str) -> None:
    one = {"images": 96, "image_size": [16, 48], "classes": 4, "labels": "a", "pixels": [1]}
    here, there = (
        {"sets": {"training images": each}, "halves": "b"} for each in (one, one | changed)
    )
    assert difference(here, there, WORDS[AUDIO]) == said
    assert "images" in str(difference(here, there))

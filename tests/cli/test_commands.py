"""The command line as a user meets it: in a terminal, in a pipe, and with wrong input."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headsearch.cli.budgets import budget_words
from headsearch.cli.commands import GROUPS, app
from headsearch.config.presets import DEFAULT_LR, PRESETS, quick_lr
from headsearch.config.setting_groups import OF_SEARCH_ALONE
from headsearch.config.settings import RunConfig
from headsearch.runs.signals import InterruptedAtOnceError
from helpers.command_line import in_process
from helpers.in_ranks import ForkedJob

HEADSEARCH = ["-m", "headsearch"]
SPACE = """families:
  convnext: {depth: 1, kernel: 3}
  poolformer: {depth: 1}
  mixer: {depth: 1}
controls: {identity: }
"""
TRAINING = [
    "--base", "test_vit", "--image-size", "16", "--patch-size", "4", "--images", "96",
    "--epochs", "2", "--batch-size", "32", "--rungs", "2", "--eval-images", "64",
    "--bank-images", "64", "--threads", "1", "--device", "cpu",
]  # fmt: skip
TINY = [*TRAINING, "--min-keep", "1"]

COMMANDS = (
    "run", "watch", "pretrain", "export", "explain", "compare", "space", "bench", "report", "plot",
)  # fmt: skip


def headsearch(
    *arguments: str, cwd: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *HEADSEARCH, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "tiny.yaml").write_text(SPACE)
    return folder


@pytest.fixture(scope="session")
def piped(workplace: Path) -> subprocess.CompletedProcess[str]:
    return headsearch("run", "--space", "tiny.yaml", "--out", "runs/a", *TINY, cwd=workplace)


def test_a_piped_run_prints_one_plain_line_a_rung_then_the_table_and_the_advice(
    piped: subprocess.CompletedProcess[str],
) -> None:
    assert piped.returncode == 0, piped.stderr
    assert piped.stderr == ""
    assert "\x1b" not in piped.stdout
    rungs = [line for line in piped.stdout.splitlines() if line.startswith("cohort 1 rung ")]
    assert [line.split(" | ")[0] for line in rungs] == [f"cohort 1 rung {r}/2" for r in range(3)]
    assert "4×4 map" in piped.stdout  # what was chosen
    assert "images/s" in rungs[1]
    for candidate in ("convnext-d1-k3", "poolformer-d1-p3", "mixer-d1", "identity"):
        assert candidate in piped.stdout.split("Rank")[1]
    assert "report: runs/a/report.html" in piped.stdout


def test_a_run_directory_holds_what_it_promises(
    piped: subprocess.CompletedProcess[str], workplace: Path
) -> None:
    found = {path.name for path in (workplace / "runs/a").iterdir()}
    assert found >= {
        "config.yaml", "study.db", "ranking.csv", "rungs.csv", "report.md", "report.html", "plots",
    }  # fmt: skip
    plots = {path.name for path in (workplace / "runs/a/plots").iterdir()}
    assert {"discrepancy_accuracy.svg", "discrepancy_accuracy.png"} <= plots


def test_report_and_plot_work_again_on_a_run(
    piped: subprocess.CompletedProcess[str],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(workplace)
    (workplace / "runs/a/report.html").unlink()
    code, out, _ = in_process(capsys, monkeypatch, "report", "runs/a")
    assert code == 0
    assert (workplace / "runs/a/report.html").is_file()
    assert "report:" in out
    assert "Ranked by Score" in out
    assert "Score (%)" in out
    (workplace / "runs/a/report.html").unlink()
    code, out, _ = in_process(capsys, monkeypatch, "report", "runs/a", "--out", "elsewhere")
    assert code == 0
    assert "report: elsewhere/report.html" in out
    assert not (workplace / "runs/a/report.html").exists()
    assert (workplace / "elsewhere/plots/discrepancy_accuracy.png").is_file()
    code, out, _ = in_process(
        capsys, monkeypatch, "plot", "runs/a", "--x", "params_m", "--y", "loss", "--out", "p.svg"
    )
    assert code == 0
    assert (workplace / "p.svg").read_text().startswith("<?xml")


def test_a_head_is_exported_and_the_base_pretrained_with_it(
    piped: subprocess.CompletedProcess[str],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(workplace)
    code, out, _ = in_process(
        capsys, monkeypatch, "export", "runs/a", "--head", "mixer-d1", "--out", "heads"
    )
    assert code == 0
    assert "space: heads/mixer-d1.yaml" in out
    assert "PyTorch: heads/mixer-d1.py" in out
    assert (workplace / "heads/mixer-d1.py").is_file()
    code, out, err = in_process(
        capsys, monkeypatch,
        "pretrain", "runs/a", "--head", "heads/mixer-d1.yaml", "--out", "runs/p", "--epochs", "1",
    )  # fmt: skip
    assert code == 0, err
    lines = out.splitlines()
    assert "\x1b" not in out
    rungs = [line for line in lines if line.startswith("rung ")]
    assert [line.split(" | ")[0] for line in rungs] == ["rung 0/2", "rung 1/2", "rung 2/2"]
    assert "base k-NN" in rungs[1]
    assert "loss" in rungs[1]
    assert any("with the head mixer-d1" in line for line in lines)
    assert lines[-1] == (
        "  timm.create_model('test_vit', num_classes=0, img_size=16, patch_size=4, "
        "checkpoint_path='runs/p/base.safetensors', pretrained_cfg_overlay="
        "{'input_size': (3, 16, 16), 'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)})"
    )


def test_ctrl_c_keeps_what_a_pretraining_has_done_and_says_how_it_goes_on(workplace: Path) -> None:
    process = ForkedJob(
        1, *HEADSEARCH, "pretrain", "--head", "none", "--out", "runs/short", *TRAINING,
        "--epochs", "4000", "--rungs", "1000", cwd=workplace,
    )  # fmt: skip
    weights = workplace / "runs/short/base.safetensors"
    while not weights.is_file():
        assert not process.ends_within(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert out.splitlines()[-1] == (
        "interrupted, all progress is saved: headsearch resume runs/short continues from here"
    )
    assert "checkpoint_path='runs/short/base.safetensors'" in out
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "patterns"),
    [
        (
            ["run", "--space", "tiny.yaml", "--out", "runs/live", *TINY],
            ["Discrepancy", "images/s", "left", "rung 1/2", "pruned at rung 1", "report:"],
        ),
        (
            ["pretrain", "--head", "mixer-d1", "--out", "runs/seen", *TRAINING],
            [r"step \d/6", "loss", "images/s", "left", "rung 2/2", "base k-NN"],
        ),
    ],
    ids=["run", "pretrain"],
)
def test_a_terminal_sees_how_it_goes(
    arguments: list[str], patterns: list[str], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which steps are seen depends on the time: the bar is drawn four times a second."""
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    reader, writer = pty.openpty()
    process = ForkedJob(1, *HEADSEARCH, *arguments, cwd=workplace, terminal=writer)
    os.close(writer)
    shown = b""
    while True:
        try:
            chunk = os.read(reader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(reader)
    process.communicate(timeout=60)
    assert process.returncode == 0
    text = shown.decode()
    for pattern in patterns:
        assert re.search(pattern, text), pattern


def test_ctrl_c_keeps_what_was_scored_and_says_so(workplace: Path) -> None:
    process = ForkedJob(
        1, *HEADSEARCH, "run", "--space", "tiny.yaml", "--out", "runs/stopped", *TINY,
        "--epochs", "2000", cwd=workplace,
    )  # fmt: skip
    table = workplace / "runs/stopped/rungs.csv"
    while not table.is_file() or len(table.read_text().splitlines()) < 2:
        assert not process.ends_within(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert "interrupted" in out
    assert "Traceback" not in out + err
    assert (workplace / "runs/stopped/report.html").is_file()


def test_the_help_shows_an_example_a_command_and_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = in_process(capsys, monkeypatch, "--help")
    assert code == 0
    assert all(f" {command} " in out for command in COMMANDS)
    for command in COMMANDS:
        assert (
            f"Example: headsearch {command}"
            in in_process(capsys, monkeypatch, command, "--help")[1]
        )
    run_help = in_process(capsys, monkeypatch, "run", "--help")[1]
    for setting in RunConfig.model_fields:
        assert "--" + setting.replace("_", "-") in run_help


def test_pretraining_has_a_flag_for_every_setting_that_means_something_to_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = in_process(capsys, monkeypatch, "pretrain", "--help")[1]
    for setting in RunConfig.model_fields:
        flag = "--" + setting.replace("_", "-") + " "
        assert (flag in shown) == (setting not in OF_SEARCH_ALONE), flag


def test_help_imports_nothing_heavy() -> None:
    """One process asks every command for its help, and says after each what it has imported."""
    code = (
        "import sys\n"
        "from headsearch.cli import main\n"
        f"for command in {COMMANDS!r}:\n"
        "    sys.argv = ['headsearch', command, '--help']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "    heavy = {'torch', 'timm', 'optuna', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "    print('after', command, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("after ")]
    assert said == [f"after {command} []" for command in COMMANDS]


@pytest.mark.parametrize("command", ["submit", "worker", "status", "collect"])
def test_a_command_of_the_old_queue_says_what_to_use(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--storage", "journal:///none.log", "--study", "s"]
    code, out, err = in_process(capsys, monkeypatch, command, *given)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f"there is no {command} any more" in err
    assert "--engine" in err or "ray start" in err


def test_an_engine_without_ray_says_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "run"
    code, _, err = in_process(capsys, monkeypatch, "run", "--engine", "local", "--out", str(out))
    assert code == 2
    assert err == "headsearch: --engine needs Ray: pip install 'headsearch[ray]'\n"
    assert not out.exists()


def test_space_lists_candidates_with_their_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = in_process(capsys, monkeypatch, "space", "heads.yaml", "--base", "vit_s")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "3.60" in lines["convnext-d3-k7-noshortcut"]
    assert "control" in lines["identity"]
    assert "Params (M)" in out
    assert "GFLOPs" in out
    _, out, _ = in_process(
        capsys, monkeypatch, "space", "heads.yaml", "--base", "vit_t", "--base-args", "depth=6"
    )
    assert "depth 6" in out


def test_space_lists_candidates_for_clips(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    clips = ["--base", "vit_t", "--clip-seconds", "0.8", "--mels", "40", "--patch-size", "4"]
    code, out, _ = in_process(capsys, monkeypatch, "space", "sequence.yaml", *clips)
    assert code == 0
    assert "log-mel maps of 40×80" in " ".join(out.split())
    assert "a 1×20 map" in " ".join(out.split())
    assert "GFLOPs a clip" in " ".join(out.split())
    assert "lstm-d2" in out


def write_images(folder: Path, count: int, *, classes: int) -> None:
    from PIL import Image

    for index in range(count):
        target = folder / f"class{index % classes}" if classes else folder
        target.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (index % 256, 0, 0)).save(target / f"{index}.png")


BAD = {
    "no space": (["--space", "none.yaml"], ["none.yaml", "no such file"]),
    "near space": (["--space", "haeds"], ["did you mean"]),
    "malformed space": (["--space", "malformed.yaml"], ["malformed.yaml:3"]),
    "unknown family": (["--space", "family.yaml"], ["family.yaml:2", "did you mean 'convnext'"]),
    "bad value": (["--space", "value.yaml"], ["value.yaml:2", "depth"]),
    "unknown base": (["--base", "vit_ss"], ["unknown base 'vit_ss'", "did you mean"]),
    "bad number": (["--epochs", "many"], ["--epochs", "'many'", "integer"]),
    "out of bounds": (["--batch-size", "0"], ["--batch-size", "0"]),
    "unknown flag": (["--epoch", "1"], ["--epoch", "--epochs"]),
    "bad normalization": (["--normalization", "half"], ["--normalization", "inception", "'half'"]),
    "unknown budget": (["--budget", "quik"], ["did you mean 'quick'"]),
    "empty folder": (["--data", "empty"], ["empty"]),
    "no dense data": (["--dense-data", "none"], ["--dense-data none", "scenes-things"]),
    "dense format": (["--dense-format", "cocco"], ["--dense-format", "did you mean 'coco'"]),
    "dense classes alone": (["--dense-classes", "a.txt"], ["--dense-classes", "--dense-data"]),
    "dense ignore": (["--dense-ignore", "255"], ["--dense-ignore 255 needs --dense-data"]),
    "dense ranking": (["--rank-by", "masks"], ["--rank-by masks", "--dense-data", "masks of"]),
    "empty dense folder": (["--dense-data", "empty"], ["no images with masks or boxes"]),
    "no images": (["--data", "texts"], ["texts"]),
    "one class": (["--data", "scenes", "--eval-data", "one"], ["one", "class"]),
    "out exists": (["--out", "one"], ["one", "exists"]),
    "no config": (["--config", "nothing.yaml"], ["nothing.yaml"]),
    "unknown setting": (["--config", "setting.yaml"], ["setting.yaml:1", "'epochs'"]),
    "infinite rate": (["--lr", "inf"], ["--lr", "inf"]),
    "not a number": (["--eta", "nan"], ["--eta", "nan"]),
    "infinite share": (["--eta", "inf"], ["--eta", "inf"]),
    "huge seed": (["--seed", "9" * 23], ["--seed"]),
    "many threads": (["--threads", "99999999999"], ["--threads"]),
    "few eval images": (["--eval-images", "10"], ["--eval-images", "32"]),
    "long name": (["--out", "x" * 300], ["name"]),
    "below a file": (["--out", "setting.yaml/run"], ["setting.yaml"]),
    "listed budget": (["--config", "budget.yaml"], ["budget.yaml:1"]),
    "no cuda": (["--device", "cuda:7"], ["--device", "cuda:7"]),
    "one image a head": (["--images-per-head", "1"], ["--images-per-head", "share", "'1'"]),
    "no share": (["--images-per-head", "share", "--batch-size", "12"], ["share", "--cohort"]),
    "too few steps": (["--rungs", "40"], ["steps", "40 rungs"]),
}


@pytest.fixture(scope="session")
def bad_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    for index in range(5):
        (folder / "texts" / f"{index}.txt").write_text("no image")
    write_images(folder / "one", 80, classes=1)
    (folder / "malformed.yaml").write_text("families:\n  convnext: {depth: [1, 2\n")
    (folder / "family.yaml").write_text("families:\n  convnxt: {depth: 1}\n")
    (folder / "value.yaml").write_text("families:\n  convnext: {depth: lots}\n")
    (folder / "budget.yaml").write_text("budget: [quick]\n")
    (folder / "setting.yaml").write_text("epoch: 3\n")
    (folder / "unranked").mkdir()
    (folder / "unranked" / "config.yaml").write_text("base: test_vit\nimage_size: 32\n")
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_clear_line_and_nothing_written(
    case: str,
    bad_place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, words = BAD[case]
    monkeypatch.chdir(bad_place)
    before = sorted(bad_place.rglob("*"))
    code, _, err = in_process(capsys, monkeypatch, "run", *TINY, *arguments)
    assert code == 2, err
    assert err.startswith("headsearch: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert sorted(bad_place.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "nowhere"], ["nowhere", "no such run directory"]),
        (["report", "empty"], ["empty", "not a run directory"]),
        (["plot", "empty"], ["not a run directory"]),
        (["space", "family.yaml"], ["family.yaml:2"]),
        (["space", "heads.yaml", "--base", "nothing_at_all"], ["unknown base"]),
        (["rum"], ["rum"]),
        (["pretrain", "nowhere"], ["nowhere", "no such run directory"]),
        (["pretrain", "empty"], ["empty", "not a run directory"]),
        (["pretrain", "unranked"], ["unranked has no ranking yet"]),
        (["pretrain", "--base", "test_vit"], ["no head is named", "--head none"]),
        (["pretrain", "--rank", "1"], ["--rank needs a RUN"]),
        (["pretrain", "--head", "convnxt"], ["unknown head 'convnxt'", "did you mean 'convnext-"]),
        (["pretrain", "--head", "mixer", "--lr", "0"], ["--lr"]),
        (["pretrain", "--head", "mixer", "--out", "one"], ["one", "exists"]),
        (["pretrain", "--head", "mixer", "--trials", "3"], ["--trials"]),
        (["pretrain", "unranked", "--head", "mixer", "--config", "x.yaml"], ["--config"]),
        (["export", "empty"], ["not a run directory"]),
        (["export", "unranked"], ["unranked has no ranking yet"]),
        (["export", "unranked", "--rank", "0"], ["--rank"]),
    ],
)
def test_other_commands_refuse_bad_input_in_one_line_too(
    arguments: list[str],
    words: list[str],
    bad_place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bad_place)
    code, _, err = in_process(capsys, monkeypatch, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


@pytest.mark.parametrize("command", ["run", "pretrain"])
def test_a_run_that_a_second_ctrl_c_ends_says_how_it_is_resumed(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        if command == "run":  # which has made the directory before
            (tmp_path / "out" / "rungs.csv").touch()
        raise InterruptedAtOnceError(tmp_path / "out")

    monkeypatch.setattr("headsearch.study.session.run_search", interrupted)
    monkeypatch.setattr("headsearch.pretraining.session.run_pretraining", interrupted)
    flags = ["--base", "test_vit", "--image-size", "16", "--patch-size", "4", "--images", "256",
             "--eval-images", "32", "--bank-images", "32"]  # fmt: skip
    own = ["--head", "none"] if command == "pretrain" else []
    out_flag = ["--out", str(tmp_path / "out")]
    code, out, error = in_process(capsys, monkeypatch, command, *own, *flags, *out_flag)
    assert code == 130, error
    assert f"headsearch resume {tmp_path / 'out'} continues from the last snapshot" in out


def test_the_first_word_comes_before_anything_is_imported_that_takes_time() -> None:
    code = (
        "import sys; sys.argv = ['headsearch', 'run', '--epochs', 'many']\n"
        "from headsearch import cli\n"
        "print(sorted({'typer', 'pydantic', 'rich', 'yaml', 'torch'} & set(sys.modules)))\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded, first, *_ = done.stdout.splitlines()
    assert loaded == "[]"
    assert first.endswith("starting run …")
    assert done.stderr.startswith("headsearch: --epochs")


def test_the_help_groups_commands_and_says_what_a_budget_contains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = in_process(capsys, monkeypatch, "--help")[1]
    places = [shown.index(group) for group in GROUPS]
    assert places == sorted(places)
    assert {command for group in GROUPS.values() for command in group} == {
        command.callback for command in app.registered_commands if not command.hidden
    }
    shown = in_process(capsys, monkeypatch, "run", "--help")[1]
    words = " ".join(re.sub("[│\n]", " ", shown).split())
    for budget, preset in PRESETS.items():
        assert f"{budget}: {budget_words(budget)}" in words
        assert f"{budget} {preset['trials']:,}" in words
    assert "full: all images, 100 epochs, at most 96 candidates, 8 rungs" in words
    assert "[default by --budget: quick 512, standard 4,000, full 10,000]" in words
    assert "[default by --budget: quick 0.5, standard 0, full 0]" in words  # --first-rung
    assert f"quick {quick_lr(384):g} × 384 / width of the base" in words
    assert f"standard {DEFAULT_LR:g}, full {DEFAULT_LR:g}]" in words
    assert words.count("[default by --budget:") == len({*PRESETS["quick"], "lr"})

"""Every command and every piece of Python in README.md and docs/ works as it is written there.

Each is run with tiny settings, on the built-in images or a few of the test's own, or is at least
read by the command line, which knows every flag and its values. What cannot be run here, since it
needs data, a GPU, a network or hours, has `<!-- not run: REASON -->` above its block.
"""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import typer
from PIL import Image
from typer.testing import CliRunner

import headsearch
from headsearch import api, report
from headsearch.cli.commands import GROUPS, app
from headsearch.config.settings import RunConfig, resolve
from headsearch.models.bases.names import ALIASES
from headsearch.models.space import ready_spaces
from headsearch.pretraining.verification import Verification
from headsearch.runs.run import read_run
from headsearch.study.pruners import PRUNERS
from headsearch.study.samplers import SAMPLERS
from headsearch.training.objectives import OBJECTIVES
from helpers.documented import PAGES, ROOT, Block, Command, blocks
from helpers.search_in_python import searched

COMMANDS = [command for page in PAGES for block in blocks(page) for command in block.commands()]

NEVER_RUN = {
    "--engine": "trains in processes of Ray, which take long to start",
    "--pretrained": "downloads weights",
    "--base-weights": "needs a file of weights",
    "--config": "needs a file of settings",
    "--storage": "needs a database",
    "--dense-data": "scores every pixel, which takes half a minute",
    "--tasks": "needs labelled sets besides the built-in images",
    "--dry-run": "measures steps of the whole base",
    "audio": "needs clips of sound",
    "text": "needs texts and a language model",
    "calibrate": "needs five heads, each verified under several seeds",
}
"""Words of commands that are only read, with the reason."""

SMALL = (
    "--base test_vit --image-size 16 --patch-size 4 --images 64 --epochs 1 --batch-size 32 "
    "--rungs 1 --eval-images 64 --bank-images 64 --threads 1 --device cpu --recipe short"
)
TINY = {
    "run": f"{SMALL} --trials 3 --min-keep 1 --seeds 1",
    "pretrain": SMALL,
    "bench": "--base test_vit --image-size 16 --patch-size 4 --heads 1 --repeats 1 --batch-size 8 "
    "--threads 1 --device cpu",
    "space": "--base test_vit",
    "verify": "--top 1 --seeds 1 --no-controls --device cpu",
    "explain": "--only change --device cpu",
}
"""What is added to a command to make it tiny: a flag that is given twice has its last value."""

RUN = re.compile(r"\b(?:results|archive)/[\w-]+")
"""A run directory in a text."""

NAMES = {
    "base": lambda name: (
        name.startswith("hf:") or name in ALIASES or timm.is_model(name.partition(".")[0])
    ),
    "space": lambda name: name in ready_spaces() or "/" in name or name.startswith("my"),
    "objective": OBJECTIVES.__contains__,
    "pruner": PRUNERS.__contains__,
    "sampler": SAMPLERS.__contains__,
}
"""Which values of a setting name something; the settings themselves are words of any kind."""


def python_of(page: Path) -> list[Block]:
    """The pieces of Python of a page."""
    return [block for block in blocks(page) if block.language in ("python", "py")]


def fault(arguments: list[str]) -> str | None:
    """What is wrong with a command, without carrying it out; None if nothing is."""
    program: Any = typer.main.get_command(app)
    try:
        if not arguments or arguments[0].startswith("-"):
            program.make_context("headsearch", arguments)
            return None
        name, *words = arguments
        command = program.commands.get(name)
        if command is None or command.hidden:
            return f"there is no command {name!r}"
        given = command.make_context(name, words).params
        flags = {key: given[key] for key in RunConfig.model_fields if given.get(key) is not None}
        if name in ("run", "pretrain"):
            resolve(flags, None)
    except typer.Exit:  # after --help
        return None
    except Exception as error:
        return str(getattr(error, "message", error))
    wrong = (key for key, exists in NAMES.items() if key in flags and not exists(flags[key]))
    return next((f"no {key} is called {flags[key]!r}" for key in wrong), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_knows_every_flag_and_value(page: Path) -> None:
    commands = [command for block in blocks(page) for command in block.commands()]
    faults = {str(command): fault(command.arguments) for command in commands}
    assert {command: words for command, words in faults.items() if words} == {}


def test_the_command_line_knows_the_examples_of_its_help() -> None:
    for command in (command for commands in GROUPS.values() for command in commands):
        examples = re.findall(r"Example: \[bold\]headsearch (.*)\[/bold\]", command.__doc__ or "")
        assert examples, command.__name__
        assert [fault(example.split()) for example in examples] == [None] * len(examples)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("run --epoch 3", "No such option: --epoch"),
        ("run --epochs many", "--epochs: input should be a valid integer"),
        ("run --base vit_q", "no base is called 'vit_q'"),
        ("run --objective mocov4", "no objective is called 'mocov4'"),
        ("collect results/RUN", "there is no command 'collect'"),
    ],
)
def test_a_wrong_command_is_found(wrong: str, words: str) -> None:
    assert (fault(wrong.split()) or "").startswith(words)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A verified search, photos for training and evaluation, and a space, for those in the text."""
    root = tmp_path_factory.mktemp("documented")
    run = searched(root / "run")
    for head in ("none", "own-d1", "convnext-d1-k3-noshortcut"):
        headsearch.pretrain(
            run, head=head, seed=0, data_seed=0, rungs=1, progress=False,
            out=run / "solo" / f"{head}-seed0",
        )  # fmt: skip
    Verification(read_run(run), top=1, seeds=1, device="cpu").write()
    for part, count in (("train", 96), ("val", 64)):
        for number in range(count):
            folder = root / part / ("light", "dark")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            colour = (number, 90 * (number % 2), 255 - number)
            Image.new("RGB", (20, 20), colour).save(folder / f"{number}.png")
    (root / "space.yaml").write_text("families: {mixer: {depth: 1}}\ncontrols: {identity: }\n")
    return {"run": run, "--data": root / "train", "--eval-data": root / "val",
            "space": root / "space.yaml"}  # fmt: skip


def with_runs(text: str, places: dict[str, Path]) -> str:
    """Puts the search wherever a text names a run directory, such as results/RUN-A."""
    text = text.replace("/archive/", "archive/")
    for name in re.findall(RUN, text):
        if not Path(name).exists():
            shutil.copytree(places["run"], name)
    return text


def leave_out_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends with a report does without it, which takes as long as the rest."""
    for module in (report, api):
        monkeypatch.setattr(module, "write_report", lambda run, out=None: run.path / "report.html")


def runnable(command: Command, places: dict[str, Path]) -> tuple[str, ...]:
    """The words of a command with tiny settings, and with real places for those of the text."""
    name, *words = command.arguments
    tiny = TINY.get(name, "").split()
    replaced = {word for word in tiny if word.startswith("--")} - {"--no-controls"}
    if name in ("run", "pretrain", "export"):
        replaced.add("--out")  # given for each run of the test
    found = [name]
    pairs = zip(["", *words], words, strict=False)
    for before, word in pairs:
        if {before, word} & replaced:
            continue
        if before in ("--data", "--eval-data") and not word.startswith("scenes"):
            word = str(places[before])
        elif word.endswith(".yaml") and word not in ready_spaces():
            word = str(places["space"])
        found.append(word)
    if name == "run" and found[1:3] == ["--space", "heads.yaml"]:
        del found[1:3]  # the default
    return (*found, *tiny)


def test_every_command_that_can_be_run_is_run(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    failed: dict[str, str] = {}
    done: set[tuple[str, ...]] = set()
    for command in COMMANDS:
        words = runnable(command, places)
        # Whatever they are called, the runs of a command are copies of one.
        called = dict.fromkeys(re.findall(RUN, " ".join(words)))
        same = tuple(str([*called].index(word)) if word in called else word for word in words)
        if command.not_run or {*NEVER_RUN} & {*command.arguments} or same in done:
            continue
        done.add(same)
        out = ["--out", f"out-{len(done)}"] if words[0] in ("run", "pretrain", "export") else []
        with monkeypatch.context() as patch:
            if words[0] != "report":
                leave_out_reports(patch)
            words_here = [with_runs(word, places) for word in words]
            result = CliRunner().invoke(app, [*words_here, *out])
        if result.exit_code:
            failed[str(command)] = str(result.exception or result.output)
    assert failed == {}
    assert {words[0] for words in done} >= {"run", "verify", "export", "report"}


@pytest.fixture
def tiny(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Makes the functions of the Python API tiny, whatever they are called with."""
    search, pretrain, verify = api.search, api.pretrain, api.verify
    flags = SMALL.split()
    small = {
        flag[2:].replace("-", "_"): value
        for flag, value in zip(flags[::2], flags[1::2], strict=True)
    }

    def real(settings: dict[str, Any]) -> dict[str, Any]:
        for key in ("data", "eval_data"):
            if isinstance(settings.get(key), str) and settings[key] != "scenes":
                settings[key] = str(places[f"--{key.replace('_', '-')}"])
        return {**settings, **small, "progress": False}

    def tiny_search(base: Any = "vit_mini", space: Any = "heads.yaml", **settings: Any) -> Any:
        given = real(settings) | {"base": base, "trials": 3, "min_keep": 1}
        if isinstance(base, str):
            given["base"] = "test_vit"
        else:  # it takes images of one size
            del given["image_size"], given["patch_size"]
        return search(space=space, **given)

    def tiny_pretrain(run: Any = None, **settings: Any) -> Any:
        return pretrain(run, **real(settings))

    def verified(run: Any, **choices: Any) -> Any:
        inspect.signature(verify).bind(run, **choices)
        return headsearch.load(places["run"])

    leave_out_reports(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "search", tiny_search)
    monkeypatch.setattr(api, "pretrain", tiny_pretrain)
    monkeypatch.setattr(api, "verify", verified)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("page", [page for page in PAGES if any(python_of(page))])
def test_the_python_of_a_page_runs(page: Path, places: dict[str, Path]) -> None:
    """One piece after another, as a reader would try them."""
    names: dict[str, Any] = {}
    for block in python_of(page):
        code = compile(block.code, block.where, "exec")
        if block.not_run is None:
            with_runs(block.code, places)
            exec(code, names)

"""Nonsense in, one clear line out: exit code 2, no traceback, nothing written."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from headsearch.errors import UserError
from headsearch.models.space import load_space
from helpers.command_line import in_process

TINY = [
    "--base", "test_vit", "--image-size", "16", "--patch-size", "4", "--images", "96",
    "--epochs", "2", "--batch-size", "32", "--rungs", "2", "--eval-images", "64",
    "--bank-images", "64", "--threads", "1", "--device", "cpu", "--min-keep", "1",
]  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

SPACES: dict[str, str | bytes] = {
    "empty": "",
    "comment alone": "# nothing here\n",
    "list": "- convnext\n- mixer\n",
    "word": "convnext\n",
    "number": "7\n",
    "tab": "families:\n\tconvnext: {depth: 1}\n",
    "unknown key": "families: {mixer: {depth: 1}}\nfamilys: {}\n",
    "unknown family": "families: {convnxt: {depth: 1}}\n",
    "families missing": "controls: {identity: }\nconstraints: {params: 0.5}\n",
    "families list": "families: [convnext, {mixer: 3}]\n",
    "families word": "families: convnext\n",
    "unknown knob": "families: {convnext: {deepth: 1}}\n",
    "knob twice": "families: {mixer: {depth: 1, depth: 2}}\n",
    "family twice": "families:\n  mixer: {depth: 1}\n  mixer: {depth: 2}\n",
    "depth zero": "families: {mixer: {depth: 0}}\n",
    "depth negative": "families: {mixer: {depth: -3}}\n",
    "depth huge": f"families: {{mixer: {{depth: {10**30}}}}}\n",
    "depth a fraction": "families: {mixer: {depth: 1.5}}\n",
    "depth a word": "families: {mixer: {depth: many}}\n",
    "depth yes": "families: {mixer: {depth: yes}}\n",
    "depth not a number": "families: {mixer: {depth: .nan}}\n",
    "ratio infinite": "families: {mixer: {mlp_ratio: .inf}}\n",
    "no choice": "families: {mixer: {depth: []}}\n",
    "nested choice": "families: {mixer: {depth: [[1, 2]]}}\n",
    "range upside down": "families: {mixer: {depth: {low: 3, high: 1}}}\n",
    "half a range": "families: {mixer: {depth: {low: 3}}}\n",
    "unknown of a range": "families: {mixer: {depth: {low: 1, hihg: 3}}}\n",
    "even kernel": "families: {convnext: {kernel: 4}}\n",
    "unknown norm": "families: {mixer: {norm: bach}}\n",
    "when of nothing": "families: {mixer: {depth: {choices: [1, 2], when: {kernel: 3}}}}\n",
    "unknown control": "families: {mixer: {depth: 1}}\ncontrols: {identiy: }\n",
    "unknown constraint": "families: {mixer: {depth: 1}}\nconstraints: {parms: 0.5}\n",
    "negative constraint": "families: {mixer: {depth: 1}}\nconstraints: {params: -1}\n",
    "module that is not there": "families: {mine: {module: 'nowhere.py:Head'}}\n",
    "module without a name": "families: {mine: {module: 'nowhere.py'}}\n",
    "module above": "families: {mine: {module: '../../../etc/passwd:x'}}\n",
    "a tag": "families: !!python/object/apply:os.system ['echo hello > hacked']\n",
    "a tag within": "families: {mixer: {depth: !!python/name:os.system }}\n",
    "exploding aliases": BOMB + "families: *i\n",
    "an alias of itself": "families: &a {mixer: *a}\n",
    "deep nesting": "families: " + "{a: " * 2000 + "}" * 2000 + "\n",
    "deep lists": "families: {mixer: {depth: " + "[" * 2000 + "]" * 2000 + "}}\n",
    "unclosed": "families: {mixer: {depth: 1\n",
    "two documents": "families: {mixer: {depth: 1}}\n---\nfamilies: {}\n",
    "not UTF-8": b"families: {mixer: {depth: \xff\xfe}}\n",
    "zero bytes": b"families:\x00 {mixer: {depth: 1}}\n",
    "an image": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "a huge key": "families: {" + "m" * 100_000 + ": {depth: 1}}\n",
    "numbers as keys": "families: {1: {2: 3}}\n",
    "a terminal escape": 'families: {"\\e[31mred": {depth: 1}}\n',
    "a path as a family": "families: {../../etc: {depth: 1}}\n",
}

CONFIGS: dict[str, str | bytes] = {
    "list": "- epochs\n",
    "unknown setting": "epoch: 3\n",
    "a mapping": "epochs: {a: 1}\n",
    "a list": "lr: [1, 2]\n",
    "a word": "epochs: many\n",
    "zero": "batch_size: 0\n",
    "infinite": "lr: .inf\n",
    "not a number": "eta: .nan\n",
    "unknown budget": "budget: quik\n",
    "unknown recipe": "recipe: hssl\n",
    "unknown objective": "objective: simcrl\n",
    "unknown coupling": "coupling: jiont\n",
    "unknown score": "rank_by: accuracies\n",
    "seeds none": "seeds: 0\n",
    "seeds many": "seeds: 1000\n",
    "no time between snapshots": "snapshot_every: 0\n",
    "not UTF-8": b"epochs: \xff\n",
    "a tag": "epochs: !!python/object/apply:os.system ['echo hello > hacked']\n",
    "exploding aliases": BOMB,
}


@pytest.fixture
def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs a command that must be refused; gives the one line that says why."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        code, _, err = in_process(capsys, monkeypatch, *arguments)
        assert code == 2, err
        assert err.startswith("headsearch: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert "\x1b" not in err
        assert len(err) < 2000
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
        return err

    return run


def written(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("case", SPACES)
def test_spaces(case: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    written(tmp_path / "bad.yaml", SPACES[case])
    assert "bad.yaml" in refused("run", *TINY, "--space", "bad.yaml")


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(case: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    written(tmp_path / "bad.yaml", CONFIGS[case])
    said = refused("run", *TINY[:4], "--config", "bad.yaml")
    assert "bad.yaml" in said or "unknown" in said


def test_yaml_whatever_it_holds_is_a_space_or_one_line(tmp_path: Path) -> None:
    file = tmp_path / "fuzz.yaml"
    words = st.sampled_from(
        ["families", "controls", "constraints", "convnext", "mixer", "depth", "kernel", "low",
         "high", "choices", "when", "otherwise", "identity", "own", "params", "first_shortcut"]
    )  # fmt: skip
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5)
    trees = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
        max_leaves=12,
    )

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(st.one_of(st.binary(max_size=80), st.text(max_size=80), trees))
    def read(content: object) -> None:
        import yaml

        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            text = content if isinstance(content, str) else yaml.safe_dump(content)
            file.write_text(text, encoding="utf-8", errors="surrogatepass")
        said = ""
        try:
            load_space(file)
        except UserError as error:
            said = str(error)
        assert "\n" not in said

    read()


class Malicious:
    """What a pickle runs when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("hacked"),))  # type: ignore[return-value]


WEIGHTS: dict[str, Callable[[Path], object]] = {
    "text": lambda file: file.write_text("no weights"),
    "nothing": lambda file: file.write_bytes(b""),
    "a malicious pickle": lambda file: file.write_bytes(pickle.dumps({"a": Malicious()})),
    "a malicious checkpoint": lambda file: torch.save({"model": Malicious()}, file),
    "another model's": lambda file: torch.save({"layer.weight": torch.zeros(3, 3)}, file),
    "a tensor alone": lambda file: torch.save(torch.zeros(3), file),
    "a folder": lambda file: file.mkdir(),
}


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights(case: str, suffix: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    file = tmp_path / f"weights.{suffix}"
    WEIGHTS[case](file)
    assert f"weights.{suffix}" in refused("run", *TINY, "--base-weights", file.name)
    assert not (tmp_path / "hacked").exists()


def test_truncated_safetensors(tmp_path: Path, refused: Callable[..., str]) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:60])
    assert "weights.safetensors" in refused("run", *TINY, "--base-weights", file.name)


def archive(file: Path, members: dict[str, bytes], *, link: str = "") -> None:
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo("class/link.png")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            tar.addfile(entry)


DATA: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nowhere": ("nowhere", lambda path: None),
    "empty folder": ("empty", lambda path: path.mkdir()),
    "texts": ("texts", lambda path: (path.mkdir(), (path / "a.txt").write_text("x"))),
    "a text": ("data.txt", lambda path: path.write_text("x")),
    "no archive": ("data.tar", lambda path: path.write_text("x" * 2000)),
    "empty archive": ("data.tar", lambda path: archive(path, {})),
    "archive that climbs": ("data.tar", lambda path: archive(path, {"../../hacked.png": b"x"})),
    "archive of links": ("data.tar", lambda path: archive(path, {}, link="/etc/passwd")),
    "zero-byte images": (
        "data.tar", lambda path: archive(path, {f"c/{i}.png": b"" for i in range(9)})
    ),
    "unknown timm data": ("torch/nosuchdata", lambda path: None),
    "near scenes": ("scene", lambda path: None),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_data(case: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    name, make = DATA[case]
    make(tmp_path / name)
    said = refused("run", *TINY, "--data", name)
    assert name in said or "--data" in said or repr(name.rpartition("/")[2]) in said
    assert not list(tmp_path.parent.glob("hacked*"))


GOOD_RANKING = (
    "rank,candidate,family,cohort,state,rungs,score,discrepancy,discrepancy_low,discrepancy_high,"
    "head_knn,head_linear,effective_rank,params_m,gflops,step_ms,reason\n"
)
RUNS: dict[str, dict[str, str | bytes]] = {
    "no config": {"ranking.csv": GOOD_RANKING},
    "empty config": {"config.yaml": ""},
    "config of words": {"config.yaml": "just words"},
    "config unclosed": {"config.yaml": "base: {"},
    "config with a tag": {"config.yaml": "a: !!python/object/apply:os.system ['touch hacked']"},
    "config that explodes": {"config.yaml": BOMB},
    "config not UTF-8": {"config.yaml": b"base: \xff"},
    "a pretraining": {"config.yaml": "base: test_vit\nsolo_head: none\n"},
    "binary ranking": {"config.yaml": "base: test_vit\n", "ranking.csv": b"\x00\xff\x00"},
    "empty ranking": {"config.yaml": "base: test_vit\n", "ranking.csv": ""},
    "another table": {"config.yaml": "base: test_vit\n", "ranking.csv": "a,b\n1,2\n"},
    "words for numbers": {
        "config.yaml": "base: test_vit\n",
        "ranking.csv": GOOD_RANKING + "first" + ",x" * 16 + "\n",
    },
    "unknown state": {
        "config.yaml": "base: test_vit\n",
        "ranking.csv": GOOD_RANKING + "1,a,mixer,0,asleep" + ",1" * 11 + ",x\n",
    },
    "rungs of another": {"config.yaml": "base: test_vit\n", "rungs.csv": "a\n1\n"},
    "scores of another": {"config.yaml": "base: test_vit\n", "scores.csv": "a\n1\n"},
    "solo of another": {"config.yaml": "base: test_vit\n", "solo.csv": "a\n1\n"},
}


@pytest.mark.parametrize("case", RUNS)
@pytest.mark.parametrize(
    "command", ["report", "resume", "verify", "explain", "calibrate", "plot", "export"]
)
def test_run_directories(
    case: str, command: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "run").mkdir()
    for name, content in RUNS[case].items():
        written(tmp_path / "run" / name, content)
    assert "run" in refused(command, "run")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "command", ["report", "resume", "verify", "explain", "calibrate", "plot", "export"]
)
def test_a_run_that_is_not_there(command: str, refused: Callable[..., str]) -> None:
    assert "nowhere: no such run directory" in refused(command, "nowhere")


COMMANDS = {
    "no such command": ["rum"],
    "no such flag": ["run", "--epoch", "1"],
    "a flag without its value": ["run", "--epochs"],
    "a word too many": ["run", "now"],
    "no run": ["verify"],
    "no seeds": ["verify", "run", "--seeds", "0"],
    "negative top": ["verify", "run", "--top", "-1"],
    "nothing to explain": ["explain", "run", "--top", "0"],
    "a score that is none": ["calibrate", "nowhere", "--primary", "luck"],
    "no such space": ["space", "haeds.yaml"],
    "no such base": ["space", "heads.yaml", "--base", "vitt_s"],
    "base arguments": ["space", "heads.yaml", "--base-args", "depth"],
    "base arguments that call": ["space", "heads.yaml", "--base-args", "depth=__import__('os')"],
    "rank zero": ["pretrain", "run", "--rank", "0"],
    "two heads": ["pretrain", "run", "--rank", "1", "--head", "mixer"],
    "no device": ["run", *TINY, "--device", "cudda"],
    "a storage": ["run", *TINY, "--storage", "sqlite:////no/such/folder/x.db"],
    "more rungs than steps": ["run", *TINY, "--rungs", "1000"],
    "an image size": ["run", *TINY, "--image-size", "1"],
    "a patch size": ["run", *TINY, "--patch-size", "64"],
    "empty out": ["run", *TINY, "--out", ""],
    "empty data": ["run", *TINY, "--data", ""],
    "empty evaluation data": ["run", *TINY, "--eval-data", " "],
    "empty base": ["run", *TINY, "--base", ""],
    "empty space": ["run", *TINY, "--space", ""],
    "empty weights": ["pretrain", "--head", "none", "--base-weights", ""],
    "a million million images": ["run", *TINY, "--images", str(10**12)],
    "too many evaluation images": ["run", *TINY, "--eval-images", str(10**11)],
    "a name too long": ["run", *TINY, "--out", "x" * 300],
    "zero byte in a name": ["run", *TINY, "--space", "a\x00b"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(case: str, refused: Callable[..., str]) -> None:
    refused(*COMMANDS[case])

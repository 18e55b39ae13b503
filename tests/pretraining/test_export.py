"""What `export` writes: a search space of one head, and PyTorch that needs no headsearch."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from headsearch.config.yaml_file import located
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan, plan_base
from headsearch.models.bases.shapes import Stage
from headsearch.models.heads import CAUSAL, FAMILIES, Parameter, Value
from headsearch.models.heads.standalone import Sources
from headsearch.models.space import Candidate, parameters_of, read_space
from headsearch.pretraining.export import export_from, export_head, snippet_text
from headsearch.pretraining.head_selection import Head, head_on

CONFIG = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(scope="module")
def plan() -> BasePlan:
    return plan_base("test_vit", 16, patch_size=4)


def other(knob: Parameter) -> Value:
    """A value that is not the default."""
    if knob.kind == "bool":
        return not knob.default
    if knob.kind == "choice":
        return next(choice for choice in knob.choices if choice != knob.default)
    assert isinstance(knob.default, int | float)
    step = 2 if knob.odd else 1
    value = knob.default - step if knob.default - step >= knob.low else knob.default + step
    return value if knob.kind == "int" else float(value) / 2 or 0.5


def variants() -> list[tuple[str, Mapping[str, Value]]]:
    """Every family at its defaults, and with each of its knobs at another value."""
    found: list[tuple[str, Mapping[str, Value]]] = []
    for name, family in FAMILIES.items():
        found.append((name, {}))
        for knob_name, knob in parameters_of(family).items() if not family.control else ():
            value = other(knob)
            if knob is CAUSAL:
                continue  # for sequences; below
            if knob.kind in ("bool", "choice") or knob.low <= value <= knob.high:
                found.append((name, {knob_name: value}))
    return found


def candidate_of(family: str, parameters: Mapping[str, Value], plan: BasePlan) -> Candidate:
    part = "controls" if FAMILIES[family].control else "families"
    written = {"families": {}, "controls": {}, part: {family: dict(parameters)}}
    listing = read_space(located(written, "space"), "space").on(plan).enumerate(5)
    assert listing is not None
    return listing.candidates[0]


def executed(text: str) -> dict[str, Any]:
    """The namespace of a snippet that was run where headsearch cannot be imported."""

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        assert name.partition(".")[0] in {"torch", "timm", *sys.stdlib_module_names}, name
        return builtins.__import__(name, *args, **kwargs)

    namespace: dict[str, Any] = {
        "__name__": "snippet",
        "__builtins__": {**vars(builtins), "__import__": guarded},
    }
    exec(compile(text, "snippet.py", "exec"), namespace)
    return namespace


def linted(folder: Path) -> None:
    """Holds the files of a folder against the project's own rules."""
    for command in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", str(CONFIG),
             str(folder)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("family", "parameters"), variants(), ids=str)
def test_the_snippet_is_the_head(
    family: str, parameters: Mapping[str, Value], plan: BasePlan
) -> None:
    candidate = candidate_of(family, parameters, plan)
    dim, grid = plan.stages[candidate.feature_index]
    # As its family makes it: how a search computes it on a small map is test_small_map's.
    mine = candidate.made_by.make(dim, grid, candidate.parameters).eval()
    theirs = executed(snippet_text(candidate, plan))["build_head"]().eval()
    theirs.load_state_dict(mine.state_dict(), strict=True)
    maps = torch.randn(2, dim, *grid, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(maps), mine(maps), rtol=0, atol=0)


@pytest.mark.parametrize("family", [name for name in FAMILIES if not FAMILIES[name].control])
def test_the_snippet_of_a_head_on_a_sequence_is_the_head(
    family: str, plan: BasePlan, tmp_path: Path
) -> None:
    """With kernels along the row; and in its causal form, if it has one."""
    sequences = replace(plan, stages=(Stage(64, (1, 12)),))
    for causal in (False, True)[: 1 + ("causal" in FAMILIES[family].parameters)]:
        candidate = candidate_of(family, {"causal": True} if causal else {}, sequences)
        assert candidate.name.endswith("causal") == causal
        text = snippet_text(candidate, sequences)
        (tmp_path / f"{candidate.name}.py").write_text(text)
        mine = candidate.made_by.make(64, (1, 12), candidate.parameters).eval()
        theirs = executed(text)["build_head"]().eval()
        theirs.load_state_dict(mine.state_dict(), strict=True)
        maps = torch.randn(2, 64, 1, 12, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(theirs(maps), mine(maps))
    linted(tmp_path)


def test_first_weights_are_drawn_the_same_way(plan: BasePlan) -> None:
    for family in FAMILIES:
        candidate = candidate_of(family, {}, plan)
        torch.manual_seed(0)
        mine = candidate.build(plan.dim, plan.grid).state_dict()
        namespace = executed(snippet_text(candidate, plan))
        torch.manual_seed(0)
        theirs = namespace["build_head"]().state_dict()
        for name in mine:
            torch.testing.assert_close(theirs[name], mine[name], rtol=0, atol=0)


def test_snippets_pass_the_linter_and_the_formatter(plan: BasePlan, tmp_path: Path) -> None:
    for family, parameters in variants():
        candidate = candidate_of(family, parameters, plan)
        (tmp_path / f"{candidate.name}.py").write_text(snippet_text(candidate, plan))
    observing = snippet_text(candidate, plan, "observe")
    (tmp_path / "observing.py").write_text(observing)
    linted(tmp_path)


def test_the_snippet_says_how_to_attach_it_and_where_it_comes_from(plan: BasePlan) -> None:
    candidate, *_ = head_on(plan, "convnext-d3-k7-noshortcut")
    namespace = executed(snippet_text(candidate, plan))
    assert "convnext-d3-k7-noshortcut" in namespace["__doc__"]
    assert "Apache-2.0" in namespace["__doc__"]
    doc = namespace["build_head"].__doc__
    for words in ("before the base's final norm", "NOT detached", "LayerNorm", "mean"):
        assert words in doc


def test_the_snippet_of_an_observing_head_says_that_its_input_was_detached(plan: BasePlan) -> None:
    candidate, *_ = head_on(plan, "convnext-d3-k7-noshortcut")
    doc = executed(snippet_text(candidate, plan, "observe"))["build_head"].__doc__
    assert "NOT detached" not in doc
    assert "DETACHED as in the search" in doc
    assert "do not detach the map" in doc


def test_no_snippet_refers_to_a_file(plan: BasePlan) -> None:
    for family, parameters in variants():
        text = snippet_text(candidate_of(family, parameters, plan), plan)
        assert not re.findall(r"[\w/]+\.(?:py|yaml|md|csv)\b", text), family


def test_an_exported_head_of_an_observing_search_runs_alone(tmp_path: Path) -> None:
    """In a process of its own, in an empty directory, without headsearch."""
    from helpers.synthetic_runs import config
    from helpers.synthetic_runs import run as made_up

    settings = config(
        coupling="observe", base="test_vit", image_size=16, patch_size=4, device="cpu"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"study_name": "s", **settings}))
    search = made_up(tmp_path / "run", config_changes=settings)
    files = export_from(search, head="swin-d1-w2", out=tmp_path / "out").files
    assert files.python is not None
    assert "DETACHED as in the search" in files.python.read_text()
    (tmp_path / "empty").mkdir()
    code = (
        "import runpy, sys, torch\n"
        "sys.modules['headsearch'] = None\n"
        f"head = runpy.run_path({str(files.python)!r})['build_head']()\n"
        "print(tuple(head(torch.zeros(1, 64, 4, 4)).shape))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path / "empty", capture_output=True, text=True
    )
    assert done.stdout == "(1, 64, 4, 4)\n", done.stderr


@pytest.mark.parametrize(("family", "parameters"), variants(), ids=str)
def test_the_yaml_is_the_same_candidate(
    family: str, parameters: Mapping[str, Value], plan: BasePlan, tmp_path: Path
) -> None:
    candidate = candidate_of(family, parameters, plan)
    files = export_head(Head(candidate, {}, []), plan, tmp_path)
    assert head_on(plan, str(files.yaml)) == Head(candidate, {}, [])
    with pytest.raises(UserError, match="exists already"):
        export_head(Head(candidate, {}, []), plan, tmp_path)


def test_a_control_is_exported_as_what_it_is_on_the_base(plan: BasePlan) -> None:
    candidate, *_ = head_on(plan, "own-d2")
    text = snippet_text(candidate, plan)
    assert "build_attention(" in text
    theirs = executed(text)["build_head"]()
    theirs.load_state_dict(candidate.build(plan.dim, plan.grid).state_dict())


def test_names_that_two_modules_share_are_kept_apart() -> None:
    """Each family's module has a LAYER_NORM of its own; one file holds both."""
    from headsearch.models.heads import attention, mlp

    sources = Sources()
    sources.add(attention.build_attention)
    sources.add(mlp.build_gmlp)
    text = sources.text()
    namespace = executed(text)
    assert {"LAYER_NORM", "LAYER_NORM_mlp"} <= set(namespace)
    assert "norm_layer=LAYER_NORM_mlp" in text


def test_a_snippet_holds_what_its_head_is_made_of_and_no_more(plan: BasePlan) -> None:
    plain, *_ = head_on(plan, "convnext-d1-k3")
    assert "class Family" not in snippet_text(plain, plan)
    narrow, *_ = head_on(plan, "convnext-d1-k3-x0.5")
    assert "class AtWidth" in snippet_text(narrow, plan)
    mixed, *_ = head_on(plan, "hybrid-d1-convnext-and-mixer")
    text = snippet_text(mixed, plan)
    assert "build_mixer" in text
    assert "build_bottleneck" not in text


def test_a_family_of_the_users_own_is_exported_as_where_it_lies(
    plan: BasePlan, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\nclass Mine(nn.Conv2d):\n"
        "    def __init__(self, dim: int, side: int = 3) -> None:\n"
        "        super().__init__(dim, dim, side, padding=side // 2)\n"
    )
    written = tmp_path / "space.yaml"
    written.write_text("families:\n  mine: {module: 'mine.py:Mine', side: 5}\ncontrols: {}\n")
    head = head_on(plan, str(written))
    files = export_head(head, plan, tmp_path / "far" / "away")
    assert files.python is None
    again = head_on(plan, str(files.yaml))
    assert again.candidate == head.candidate
    assert again.candidate.build(plan.dim, plan.grid).kernel_size == (5, 5)


def test_nothing_is_written_where_a_run_or_its_ranking_is_not_there(tmp_path: Path) -> None:
    from helpers.synthetic_runs import run as made_up

    with pytest.raises(UserError, match="no ranking yet"):
        export_from(made_up(tmp_path, last=-1))
    with pytest.raises(UserError, match="nothing to export"):
        export_from(made_up(tmp_path), head="none")
    with pytest.raises(UserError, match="give one of them"):
        export_from(made_up(tmp_path), head="identity", rank=1)
    assert not list(tmp_path.iterdir())

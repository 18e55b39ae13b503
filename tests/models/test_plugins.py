"""Families that a user brings along: read, checked, hashed, searched."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from headsearch.errors import UserError
from headsearch.models.heads import FAMILIES, Family, Parameter
from headsearch.models.space import load_space

MINE = '''
import torch
from torch import nn


class MyHead(nn.Module):
    """A head of the user's own."""

    def __init__(self, dim, grid, depth=1, scale: float = 1, gate=False, act="gelu", names=None):
        super().__init__()
        assert grid == (4, 4)
        assert names is None
        self.scale = scale
        self.act = {"gelu": nn.GELU, "relu": nn.ReLU}[act]()
        self.gate = nn.Parameter(torch.ones(dim, 1, 1)) if gate else None
        self.layers = nn.Sequential(*(nn.Conv2d(dim, dim, 1) for _ in range(depth)))

    def forward(self, x):
        x = self.act(self.layers(x)) * self.scale
        return x if self.gate is None else x * self.gate


def without_grid(dim, *, blocks=2):
    return nn.Sequential(*(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(blocks)))


def shrinks(dim):
    return nn.MaxPool2d(2)


def is_no_module(dim):
    return dim


class Raises(nn.Module):
    def __init__(self, dim, depth=1):
        raise ValueError(f"{dim} is not\\nto my liking")


class RaisesLate(nn.Module):
    def __init__(self, dim, depth=1):
        super().__init__()
        if depth > 2:
            raise ValueError("too deep")
        self.layer = nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        return self.layer(x)


def needs(dim, grid, rank):
    return nn.Identity()


def takes_width(dim, width=1):
    return nn.Identity()


def takes_nothing():
    return nn.Identity()


def ambiguous(dim, a_b=1, ab=1):
    return nn.Sequential(*(nn.Conv2d(dim, dim, 1) for _ in range(a_b + 2 * ab)))


NUMBER = 3
'''


@dataclass(frozen=True)
class Shape:
    stages: tuple = ((16, (4, 4)), (8, (4, 4)))
    own_family: str | None = "attention"
    causal: bool = False
    params_m: float = 1.0
    gflops: float = 0.1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_heads.py").write_text(MINE)
    return tmp_path


def load(folder: Path, families: str, rest: str = "controls: []\n"):
    (folder / "space.yaml").write_text(f"families:\n  {families}\n{rest}")
    return load_space(folder / "space.yaml")


def names(space) -> list[str]:
    return [candidate.name for candidate in space.on(Shape()).enumerate(100).candidates]


def test_its_knobs_are_those_of_its_signature(folder):
    space = load(
        folder,
        "mine: {module: my_heads.py:MyHead, depth: [1, 2], scale: 0.5, gate: [true, false],"
        " act: [gelu, relu]}",
    )
    assert names(space) == [
        "mine-scale0.5",
        "mine-scale0.5-act-relu",
        "mine-scale0.5-gate",
        "mine-scale0.5-gate-act-relu",
        "mine-depth2-scale0.5",
        "mine-depth2-scale0.5-act-relu",
        "mine-depth2-scale0.5-gate",
        "mine-depth2-scale0.5-gate-act-relu",
    ]
    candidate = space.on(Shape()).enumerate(100).candidates[-1]
    head = candidate.build(16, (4, 4))
    assert (len(head.layers), head.scale, type(head.act)) == (2, 0.5, nn.ReLU)
    assert head.gate is not None
    assert head(torch.randn(2, 16, 4, 4)).shape == (2, 16, 4, 4)
    assert candidate.params_m * 1e6 == sum(weight.numel() for weight in head.parameters())


def test_it_has_what_every_family_has_and_conditions_and_ranges_too(folder):
    space = load(
        folder,
        "mine: {module: 'my_heads.py:without_grid', blocks: {low: 1, high: 2},"
        " width: [0.5, 1], attach_at: {choices: [0, 1], when: {blocks: 1}}}",
    )
    assert names(space) == [
        "mine-blocks1-x0.5",
        "mine-blocks1-before1",  # of width 8, than which nothing is narrower
        "mine-blocks1",
        "mine-x0.5",
        "mine",
    ]


def test_a_module_that_can_be_imported_is_found(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    space = load(folder, "mine: {module: 'my_heads:without_grid'}")
    assert names(space) == ["mine"]
    sys.modules.pop("my_heads")


def test_the_file_s_content_is_part_of_the_space(folder):
    text = "mine: {module: 'my_heads.py:without_grid'}"
    first = load(folder, text)
    assert load(folder, text).hash == first.hash
    origin = first.written()["families"]["mine"]
    assert origin["module"] == "my_heads.py:without_grid"
    assert len(origin["sha256"]) == 64
    # Written down and read again it is the same space, as long as the file is.
    (folder / "again.yaml").write_text(yaml.safe_dump(first.written()))
    assert load_space(folder / "again.yaml").hash == first.hash
    (folder / "my_heads.py").write_text(MINE.replace("blocks=2", "blocks=3"))
    changed = load(folder, text)
    assert changed.hash != first.hash
    # Its new content, at once: no compiled copy of the old one is taken for it.
    assert len(changed.on(Shape()).enumerate(9).candidates[0].build(16, (4, 4))) == 3
    with pytest.raises(UserError, match=r"again.yaml:\d+: mine is no longer the one that"):
        load_space(folder / "again.yaml")
    assert not (folder / "__pycache__").exists()


def test_a_head_that_some_parameters_break_is_left_out_with_its_own_words(folder):
    space = load(folder, "mine: {module: 'my_heads.py:RaisesLate', depth: [1, 2, 3]}")
    listing = space.on(Shape()).enumerate(100)
    assert [candidate.name for candidate in listing.candidates] == ["mine", "mine-depth2"]
    ((candidate, reason),) = listing.excluded
    assert candidate.name == "mine-depth3"
    assert reason == "mine on a 4×4 map of width 16: ValueError: too deep"


WRONG = [
    ("mine: {module: nothing.py:MyHead}", "nothing.py cannot be read (No such file or directory)"),
    ("mine: {module: no_such_package:MyHead}", "no_such_package cannot be imported: ModuleNotFou"),
    ("mine: {module: my_heads.py:MyHaed}", "unknown name in my_heads.py 'MyHaed'; did you mean"),
    ("mine: {module: my_heads.py:NUMBER}", "NUMBER in my_heads.py is no class or function"),
    ("mine: {module: my_heads.py}", "must be FILE.py:NAME or package.module:NAME, but is 'my_hea"),
    ("mine: {module: 3}", "module must be FILE.py:NAME or package.module:NAME, but is 3"),
    ("mine: {module: broken.py:MyHead}", "broken.py cannot be executed: SyntaxError: "),
    ("mine: {module: raising.py:MyHead}", "raising.py cannot be executed: RuntimeError: no GPU"),
    ("mine: {module: exits.py:MyHead}", "exits.py cannot be executed: it ends the process (exi"),
    ("mine: {module: leaves.py:MyHead}", "leaves.py cannot be executed: it ends the process (e"),
    ("convnext: {module: my_heads.py:MyHead}", "'convnext' is headsearch's own; give your family"),
    ("own: {module: my_heads.py:MyHead}", "'own' is headsearch's own; give your family"),
    ("my_head: {module: my_heads.py:MyHead}", "lower-case letters and digits, but is 'my_head'"),
    ("mine: {module: my_heads.py:needs}", "my_heads.py:needs: its parameter rank needs a default"),
    ("mine: {module: my_heads.py:takes_width}", "its parameter width has the name of a key that"),
    ("mine: {module: my_heads.py:takes_nothing}", "must take the width of the map as its first"),
    ("mine: {module: my_heads.py:MyHead, kernel: 3}", "unknown parameter of mine 'kernel'"),
    ("mine: {module: my_heads.py:MyHead, names: 3}", "unknown parameter of mine 'names'"),
    ("mine: {module: my_heads.py:MyHead, depth: 1.5}", "mine.depth must be a whole number from"),
    ("mine: {module: my_heads.py:MyHead, act: [Re_LU]}", "lower-case letters, digits and dots"),
    ("mine: {modul: my_heads.py:MyHead}", "unknown family 'mine'"),
]  # fmt: skip


@pytest.mark.parametrize(("families", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_in_one_line_on_loading(folder, families, message):
    (folder / "broken.py").write_text("class MyHead(\n")
    (folder / "raising.py").write_text("raise RuntimeError('no GPU\\nat hand')\n")
    (folder / "exits.py").write_text("import sys\n\nsys.exit(3)\n")
    (folder / "leaves.py").write_text("import os\n\nos._exit(0)\n")
    with pytest.raises(UserError) as caught:
        load(folder, families)
    said = str(caught.value)
    assert said.startswith(f"{folder}/space.yaml:2: ")
    assert "\n" not in said
    assert message in said, said


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("shrinks", "mine makes (1, 16, 2, 2) of a map (1, 16, 4, 4), not the same shape"),
        ("is_no_module", "my_heads.py:is_no_module gives no torch module, but int"),
        ("Raises", "mine on a 4×4 map of width 16: ValueError: 16 is not"),
    ],
)
def test_what_is_no_head_on_a_base_is_said_in_one_line_before_a_run(folder, made, message):
    space = load(folder, f"mine: {{module: 'my_heads.py:{made}'}}")
    with pytest.raises(UserError) as caught:
        space.on(Shape())
    assert str(caught.value) == f"{folder}/space.yaml:2: {message}"


def test_two_heads_that_would_share_a_name_are_refused(folder):
    space = load(folder, "mine: {module: my_heads.py:ambiguous, a_b: [1, 2], ab: [1, 2]}")
    with pytest.raises(
        UserError, match="two different heads of mine would both be called mine-ab2"
    ):
        space.on(Shape()).enumerate(100)


def test_nothing_is_executed_that_the_space_does_not_name(folder):
    (folder / "my_heads.py").write_text("raise RuntimeError('executed')\n")
    assert names(load(folder, "resmlp: {depth: 1}")) == ["resmlp-d1"]


# --- Families of packages -------------------------------------------------------------------------


def _build(dim, grid, *, rank):
    return nn.Sequential(nn.Conv2d(dim, rank, 1), nn.Conv2d(rank, dim, 1))


PACKAGED = Family(
    "lowrank",
    "a narrow linear map",
    _build,
    {"rank": Parameter("int", 4, "channels between", "r{}", low=1, high=64)},
    norm="",
    blocks=None,
)


def offered():
    return PACKAGED


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `extraheads` whose entry points are in this very file."""
    info = tmp_path / "site" / "extraheads-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extraheads\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[headsearch.families]\n"
        f"lowrank = {__name__}:PACKAGED\n"
        f"convnext = {__name__}:PACKAGED\n"
        f"other = {__name__}:PACKAGED\n"
        "absent = no_such_module:HEAD\n"
    )
    monkeypatch.syspath_prepend(info.parent)
    return info


def test_a_package_s_family_is_found_by_its_entry_point(folder, package):
    space = load(folder, "lowrank: {rank: [2, 4], width: [0.5, 1]}")
    assert names(space) == ["lowrank-r2-x0.5", "lowrank-r2", "lowrank-x0.5", "lowrank"]
    assert space.written()["families"]["lowrank"]["package"] == "extraheads 1.2"
    function = package / "entry_points.txt"
    function.write_text(f"[headsearch.families]\nlowrank = {__name__}:offered\n")
    assert load(folder, "lowrank: {rank: [2, 4], width: [0.5, 1]}").hash == space.hash


def test_headsearch_s_own_families_cannot_be_replaced(folder, package):
    candidate = load(folder, "convnext: {depth: 1}").on(Shape()).enumerate(9).candidates[0]
    assert candidate.made_by is FAMILIES["convnext"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "absent of extraheads 1.2 cannot be loaded: ModuleNotFoundError"),
        ("other", "other of extraheads 1.2 gives no Family of that name"),
    ],
)
def test_a_package_without_what_it_promises_is_named(folder, package, name, message):
    with pytest.raises(UserError, match=message):
        load(folder, f"{name}: {{}}")

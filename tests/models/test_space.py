"""What a user gets from heads.yaml: candidates, and clear words where it is wrong."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from optuna.trial import FixedTrial
from rich.console import Console

from headsearch.cli.space_view import print_space
from headsearch.errors import UserError
from headsearch.models.heads import FAMILIES
from headsearch.models.space import (
    Space,
    as_space,
    find_space,
    load_space,
    named_head,
    ready_spaces,
)
from headsearch.models.space.distributions import all_points
from headsearch.pretraining.head_selection import read_head, written_head

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Shape:
    """A base as a space sees it; vit_s at 32 pixels, patches of 8, unless told otherwise."""

    dim: int = 384
    grid: tuple[int, int] = (4, 4)
    own_family: str | None = "attention"
    params_m: float = 21.4
    gflops: float = 0.73
    earlier: tuple[tuple[int, tuple[int, int]], ...] = ()
    causal: bool = False

    @property
    def stages(self):
        return ((self.dim, self.grid), *self.earlier)


TINY = Shape(dim=48, params_m=1.0, gflops=0.1)


@pytest.fixture
def space(tmp_path):
    def load(text: str, name: str = "heads.yaml") -> Space:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_space(path)

    return load


def names(space: Space, base: Shape = TINY, limit: int = 100) -> list[str]:
    listing = space.on(base).enumerate(limit)
    assert listing is not None
    return [candidate.name for candidate in listing.candidates]


# --- The spaces that come with headsearch ---------------------------------------------------------


def test_the_default_space_is_the_main_job_s_cohort_of_twelve():
    resolved = load_space(find_space("heads.yaml")).on(Shape())
    listing = resolved.enumerate(64)
    assert [candidate.name for candidate in listing.candidates] == [
        "identity",
        "own-d2",
        "bottleneck-d2-k3",
        "convnext-d3-k3-noshortcut",
        "convnext-d3-k7-noshortcut",
        "convnext-d3-k7",
        "gmlp-d2",
        "mambaout-d2-k7",
        "mixer-d2",
        "poolformer-d2-p3",
        "resmlp-d2",
        "swin-d2-w2",
    ]
    assert listing.merged == (("attention-d2", "own-d2"),)
    assert listing.excluded == ()
    assert [candidate.control for candidate in listing.candidates] == [True] * 2 + [False] * 10
    # What makes a default run on a CPU affordable.
    assert sum(candidate.gflops for candidate in listing.candidates) < 2.5 * 0.73


def test_the_large_space_has_every_family_and_thousands_of_points():
    large = load_space(find_space("large"))
    assert large.families.keys() == {
        name for name, family in FAMILIES.items() if not family.control
    }
    assert large.size is not None
    assert 2000 < large.size < 100_000
    assert any(knob.when for knobs in large.families.values() for knob in knobs.values())


def test_the_published_space_changes_one_thing_at_a_time():
    published = load_space(find_space("published"))
    found = names(published, Shape(384, (8, 8)), 64)
    assert [name for name in found if name.startswith("convnext")] == [
        "convnext-d1-k7-noshortcut",
        "convnext-d2-k7-noshortcut",
        "convnext-d3-k7-noshortcut-any",
        "convnext-d3-k3-noshortcut",
        "convnext-d3-k5-noshortcut",
        "convnext-d3-k7-noshortcut",
        "convnext-d3-k9-noshortcut",
        "convnext-d3-k7",
        "convnext-d4-k7-noshortcut",
    ]
    assert {name.split("-")[0] for name in found} == {
        *published.families,
        "identity",
        "own",
    }


@pytest.mark.parametrize(
    ("base", "own"),
    [
        (Shape(192, (8, 8), "attention", 5.5, 0.7), "attention"),
        (Shape(768, (7, 7), "convnext", 28.0, 4.5), "convnext"),
        (Shape(768, (14, 14), "attention", 86.0, 35.0), "attention"),
    ],
)
def test_the_default_space_is_usable_on_other_bases(base, own):
    listing = load_space(find_space("heads.yaml")).on(base).enumerate(64)
    assert len(listing.candidates) >= 12 - len(listing.excluded)
    assert listing.candidates[1].family == "own"
    assert listing.candidates[1].block == own


def test_a_name_finds_the_ready_space_and_a_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ready = {"heads.yaml", "controls.yaml", "published.yaml", "sequence.yaml", "large.yaml"}
    assert set(ready_spaces()) == ready
    assert find_space("heads") == find_space("heads.yaml") == ready_spaces()["heads.yaml"]
    Path("heads.yaml").write_text("families: [mixer]\n")
    assert find_space("heads.yaml") == Path("heads.yaml")
    with pytest.raises(
        UserError, match=r"^hedas.yaml: no such file.*did you mean 'heads.yaml'"
    ) as e:
        find_space("hedas.yaml")
    assert all(name in str(e.value) for name in ready)
    with pytest.raises(UserError, match="a directory"):
        find_space(str(tmp_path))


@pytest.mark.parametrize("name", ["heads.yaml", "controls.yaml", "published.yaml", "sequence.yaml"])
def test_every_ready_candidate_is_a_head(name):
    base = TINY if name == "controls.yaml" else Shape(48, (4, 4), "attention", 9.0, 9.0)
    for candidate in load_space(find_space(name)).on(base).enumerate(64).candidates:
        head = candidate.build(base.dim, base.grid)
        assert head(torch.randn(2, base.dim, *base.grid)).shape == (2, base.dim, *base.grid)
        params = sum(weight.numel() for weight in head.parameters())
        assert candidate.params_m == pytest.approx(params / 1e6)
        assert set(candidate.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")


UNUSUAL = {
    "families": {
        "convnext": {"depth": [1, 2], "width": [0.5, 1.0], "shortcuts": [True, False]},
        "attention": {"attach_at": [0, 1], "norm": ["none", "own"], "mlp_ratio": [2.0, 4.0]},
    }
}


@pytest.mark.parametrize("space", ["heads.yaml", "published.yaml", UNUSUAL])
def test_a_candidates_name_stands_for_the_head_that_export_writes(space):
    """The report shows a head's YAML from its name alone, without its base."""
    read = as_space(space) if isinstance(space, dict) else load_space(find_space(space))
    base = Shape(48, (8, 8), "attention", 9.0, 9.0, earlier=((48, (8, 8)),))
    listing = read.on(base).enumerate(64)
    assert len(listing.candidates) > 5
    for candidate in listing.candidates:
        assert named_head(candidate.name) == written_head(candidate, {})


# --- Sequences ------------------------------------------------------------------------------------


def test_the_space_for_sequences_builds_on_a_row_and_heads_of_one_length_say_so(capsys):
    row = Shape(48, (1, 24), "attention", 9.0, 9.0)
    resolved = load_space(find_space("sequence")).on(row)
    for candidate in resolved.enumerate(64).candidates:
        head = candidate.build(48, (1, 24))
        assert head(torch.randn(2, 48, 1, 24)).shape == (2, 48, 1, 24)
    for base, said in ((row, True), (Shape(48, (4, 6), "attention", 9.0, 9.0), False)):
        space = as_space({"families": {"mixer": {}, "lstm": {}}, "controls": {}})
        print_space(Console(width=200), space.on(base), 9)
        lines = capsys.readouterr().out.splitlines()
        assert ["one length only" in line for line in lines if "mixer" in line] == [said]
        assert not any("one length" in line for line in lines if "lstm" in line)


def test_a_causal_base_takes_causal_heads_only():
    base = Shape(48, (1, 24), "attention", 9.0, 9.0, causal=True)
    families = {"lstm": {"depth": 1}, "mixer": {}, "convnext": {"causal": True}}
    listing = as_space({"families": families}).on(base).enumerate(9)
    assert {candidate.name for candidate in listing.candidates} == {
        "identity",
        "own-d3-causal",
        "lstm-d1-causal",
        "convnext-d3-k7-causal",
    }
    assert [reason for _, reason in listing.excluded] == [
        "mixer has no causal form, and this base is causal"
    ]
    row = torch.randn(1, 48, 1, 24)
    later = torch.cat([row[..., :9], torch.randn(1, 48, 1, 15)], dim=3)
    for candidate in listing.candidates:
        head = candidate.build(48, (1, 24))
        torch.testing.assert_close(head(row)[..., :9], head(later)[..., :9])
        written = written_head(candidate, {})
        assert read_head(written, base, "a test").candidate == candidate


def test_spaces_and_heads_of_older_runs_are_the_same():
    """Their families had no parameter `causal`: neither contents nor hashes may show it."""
    space = as_space({"families": {"convnext": {"depth": [1, 2]}}, "controls": {"own": {}}})
    assert "causal" not in str(space.written())
    for candidate in space.on(Shape()).enumerate(9).candidates:
        assert "causal" not in str(written_head(candidate, {}))
    changed = as_space({"families": {"convnext": {"causal": True}}, "controls": {}})
    assert as_space(changed.written()).hash == changed.hash
    assert "causal" in changed.written()["families"]["convnext"]


# --- Forms of a parameter -------------------------------------------------------------------------


def test_one_value_a_list_or_a_range(space):
    found = names(
        space(
            """
families:
  convnext: {depth: 2, kernel: {low: 3, high: 7}, mlp_ratio: {low: 1, high: 2, step: 0.5}}
  swin: {depth: {low: 1, high: 2}, window: [4, 2]}
controls: []
"""
        )
    )
    assert found == [
        *(f"convnext-d2-k{k}{m}" for k in (3, 5, 7) for m in ("-m1", "-m1.5", "-m2")),
        *(f"swin-d{d}-w{w}" for d in (1, 2) for w in (2, 4)),
    ]


def test_what_is_not_written_is_at_its_default(space):
    assert names(space("families: [convnext, {swin: {depth: 1}}]")) == [
        "identity",
        "own-d3",
        "convnext-d3-k7",
        "swin-d1-w4",
    ]


def test_a_condition_takes_effect_only_where_it_holds(space):
    text = """
families:
  convnext:
    depth: 2
    mlp_ratio: {choices: [1, 2], when: {kernel: [5, 7]}}
    kernel: {low: 3, high: 7, when: {first_shortcut: false}, otherwise: 1}
    first_shortcut: [true, false]
controls: []
"""
    loaded = space(text)
    assert names(loaded) == [
        "convnext-d2-k3-noshortcut",
        "convnext-d2-k5-m1-noshortcut",
        "convnext-d2-k5-m2-noshortcut",
        "convnext-d2-k7-m1-noshortcut",
        "convnext-d2-k7-m2-noshortcut",
        "convnext-d2-k1",
    ]
    assert loaded.size == 6


def test_size_counts_points_without_listing_them(space):
    big = "{low: 1, high: 24}"
    assert space(f"families: {{mixer: {{depth: {big}}}}}\ncontrols: []").size == 24
    many = "families: {mixer: {depth: %s, mlp_ratio: {low: 1, high: 8, step: 0.001}}}\ncontrols: []"
    assert space(many % big).size == 24 * 7001
    assert space(many % big).on(TINY).enumerate(10**9) is None
    dense = space("families: {mixer: {mlp_ratio: {low: 1, high: 8}}}")
    assert dense.size is None
    assert dense.on(TINY).enumerate(10**9) is None


def test_a_space_above_the_limit_is_not_listed(space):
    resolved = space("families: {mixer: {depth: [1, 2, 3]}}").on(TINY)
    assert len(resolved.enumerate(5).candidates) == 5
    assert resolved.enumerate(4) is None
    assert [control.name for control in resolved.controls] == ["identity", "own-d3"]


# --- What the base makes of a space ---------------------------------------------------------------


def test_kernels_and_windows_beyond_the_map_are_one_candidate(space):
    loaded = space(
        """
families:
  convnext: {depth: 1, kernel: [5, 7, 9, 11]}
  swin: {depth: 1, window: [2, 4, 7]}
  poolformer: {depth: 1, pool: [9]}
controls: []
"""
    )
    listing = loaded.on(TINY).enumerate(100)
    assert [candidate.name for candidate in listing.candidates] == [
        "convnext-d1-k5",
        "convnext-d1-k7",
        "poolformer-d1-p7",
        "swin-d1-w2",
        "swin-d1-w4",
    ]
    assert listing.merged == (
        ("convnext-d1-k9", "convnext-d1-k7"),
        ("convnext-d1-k11", "convnext-d1-k7"),
        ("poolformer-d1-p9", "poolformer-d1-p7"),
        ("swin-d1-w7", "swin-d1-w4"),
    )
    assert len(names(loaded, Shape(48, (4, 8)))) == 8


def test_the_control_own_is_the_base_s_kind_of_block(space):
    loaded = space(
        "families: {bottleneck: {depth: 2}, attention: {depth: 2}}\ncontrols: {own: {depth: 2}}"
    )
    for own, other in (("attention", "bottleneck-d2-k3"), ("bottleneck", "attention-d2")):
        listing = loaded.on(Shape(48, (4, 4), own)).enumerate(10)
        control, candidate = listing.candidates
        assert (control.name, control.block, control.control) == ("own-d2", own, True)
        assert control.parameters == {"depth": 2}
        assert candidate.name == other
        # The same head as a family of the space: the control stands for both.
        assert [into for _, into in listing.merged] == ["own-d2"]


def test_a_base_of_no_known_kind_leaves_own_out_and_says_so(space):
    resolved = space("families: [mixer]").on(Shape(48, (4, 4), None))
    assert [c.name for c in resolved.enumerate(10).candidates] == ["identity", "mixer-d3"]
    assert len(resolved.notes) == 1
    assert "own" in resolved.notes[0]
    assert space("families: [mixer]").on(TINY).notes == ()


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        ("max_params: 0.08", "0.0848 M parameters, over 0.08 of the base's 1"),
        ("max_gflops: 0.02", "0.0028 GFLOPs, over 0.02 of the base's 0.1"),
    ],
)
def test_constraints_are_shares_of_the_base(space, constraint, reason):
    loaded = space(
        "families: {attention: {depth: [1, 3]}}\ncontrols: [identity]\n"
        f"constraints: {{{constraint}}}"
    )
    listing = loaded.on(TINY).enumerate(100)
    assert [candidate.name for candidate in listing.candidates] == ["identity", "attention-d1"]
    ((candidate, why),) = listing.excluded
    assert candidate.name == "attention-d3"
    assert why == reason


def test_controls_are_never_excluded(space):
    loaded = space("families: [{attention: {depth: 1}}]\nconstraints: {max_params: 0.05}")
    assert names(loaded) == ["identity", "own-d3", "attention-d1"]
    resolved = loaded.on(TINY)
    assert all(resolved.excluded(control) is None for control in resolved.controls)


def test_constraints_that_leave_nothing_are_an_error(space):
    loaded = space("families: [attention, swin]\nconstraints: {max_params: 0.01}")
    with pytest.raises(
        UserError, match=r"heads.yaml: the constraints leave no candidate; the small"
    ):
        loaded.on(TINY).enumerate(100)


# --- Where a head is attached ---------------------------------------------------------------------

STAGED = Shape(64, (4, 4), "convnext", 9.0, 9.0, ((32, (8, 8)), (24, (16, 16))))


def test_a_head_is_built_and_paid_for_at_its_place(space):
    loaded = space(
        "families: {convnext: {depth: 1, kernel: [7, 9], attach_at: [0, 1, 2]}}\ncontrols: [own]"
    )
    listing = loaded.on(STAGED).enumerate(100)
    assert [candidate.name for candidate in listing.candidates] == [
        "own-d3",
        "convnext-d1-k7",
        "convnext-d1-k7-before1",
        "convnext-d1-k7-before2",
        "convnext-d1-k9-before1",
        "convnext-d1-k9-before2",
    ]
    # On 4×4 a kernel of 9 is one of 7, on 8×8 it is not.
    assert listing.merged == (("convnext-d1-k9", "convnext-d1-k7"),)
    for candidate in listing.candidates:
        dim, grid = STAGED.stages[candidate.feature_index]
        head = candidate.build(dim, grid)
        assert head(torch.randn(1, dim, *grid)).shape == (1, dim, *grid)
        params = sum(weight.numel() for weight in head.parameters())
        assert candidate.params_m == pytest.approx(params / 1e6)
    early, late = (listing.candidates[i] for i in (3, 1))
    assert (early.feature_index, late.feature_index) == (2, 0)
    dims = 49 * 24 + 2 * 4 * 24**2  # depth-wise kernel, and two layers of the MLP
    assert early.gflops == pytest.approx(2 * dims * 16**2 / 1e9)


def test_a_place_that_a_base_lacks_is_left_out_and_said(space):
    loaded = space("families: {resmlp: {depth: 1, attach_at: {low: 0, high: 4}}}\ncontrols: []")
    resolved = loaded.on(STAGED)
    assert resolved.notes == (
        "heads with attach_at 4 are left out: this base can be attached to at 0 to 2",
    )
    listing = resolved.enumerate(100)
    assert [candidate.feature_index for candidate in listing.candidates] == [0, 1, 2]
    assert [candidate.name for candidate, _ in listing.excluded] == [
        "resmlp-d1-before3",
        "resmlp-d1-before4",
    ]
    assert {reason for _, reason in listing.excluded} == {"this base can be attached to at 0 to 2"}
    # A sampler that proposes one is told so, rather than the run failing.
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"family": "resmlp", "resmlp.attach_at": 4})
    assert resolved.excluded(resolved.suggest(study.ask())) is not None
    with pytest.raises(UserError, match=r"no candidate can be built on this base; resmlp-d1-befor"):
        space("families: {resmlp: {depth: 1, attach_at: 4}}").on(STAGED).enumerate(100)


def test_a_control_is_attached_to_the_last_map(space):
    with pytest.raises(UserError, match="unknown parameter of own 'attach_at'"):
        space("controls: {own: {attach_at: 1}}")
    loaded = space("families: {convnext: {attach_at: [0, 1]}}")
    # What the control `own` merges with is the head at its own place alone.
    assert names(loaded, STAGED) == ["identity", "own-d3", "convnext-d3-k7-before1"]


# --- Names and heads ------------------------------------------------------------------------------

VARIED = """
families:
  convnext:
    depth: [1, 2]
    kernel: [7, 9]
    first_shortcut: [true, false]
    shortcuts: [true, false]
    norm: [own, layer]
    width: [0.3, 1]
    attach_at: [0, 1]
  dilated: {depth: 1, kernel: [1, 3, 7], dilation: [2, 3, 4, 8]}
  resmlp: {depth: [1, 2], shortcuts: [true, false], width: [0.5, 0.97, 1]}
  poolformer: {depth: 1, pool: [3, 9], norm: [own, layer]}
  hybrid:
    depth: 1
    near: [convnext, poolformer]
    far: [attention, resmlp]
    norm: [own, layer]
    order: [near, far]
controls: []
"""


def test_different_heads_never_share_a_name_and_merged_points_build_the_same_head(space):
    base = Shape(48, (4, 4), None, 9.0, 9.0, ((24, (5, 3)),))
    resolved = space(VARIED).on(base)
    listing = resolved.enumerate(10_000)
    assert len(listing.merged) > 40
    built = {}
    for candidate in listing.candidates:
        assert candidate.name not in built
        built[candidate.name] = candidate
    checked = 0
    for family, knobs in resolved.space.families.items():
        for index, (values, drawn) in enumerate(all_points(knobs)):
            chosen = {f"{family}.{name}": value for name, value in drawn.items()}
            candidate = resolved.suggest(FixedTrial({"family": family, **chosen}))
            assert candidate == built[candidate.name]
            if index % 3 == 0:  # all of them would take their time
                _assert_same_head(family, values, candidate, base)
                checked += 1
    assert checked > 50
    assert {name for _, name in listing.merged} <= built.keys()


def _assert_same_head(family, values, candidate, base):
    """What a point says when built as it is written computes what its candidate does."""
    dim, grid = base.stages[values["attach_at"]]
    assert candidate.feature_index == values["attach_at"]
    asked = {name: value for name, value in values.items() if name != "attach_at"}
    heads = []
    for build in (
        # Not through `settled`, which is what is put to the test.
        lambda: FAMILIES[family].build(dim, grid, **asked),
        lambda: candidate.build(dim, grid),
    ):
        torch.manual_seed(0)
        heads.append(build().double())
    map_BDHW = torch.randn(2, dim, *grid, dtype=torch.float64)
    written, merged = heads
    _copy_centred(written, merged)
    torch.testing.assert_close(written(map_BDHW), merged(map_BDHW), rtol=1e-9, atol=1e-9)


def _copy_centred(source, target):
    """Copies weights; of a larger kernel, the part that a smaller one has."""
    with torch.no_grad():
        for own, given in zip(target.parameters(), source.parameters(), strict=True):
            if own.shape != given.shape:
                cut = [(a - b) // 2 for a, b in zip(given.shape, own.shape, strict=True)]
                given = given[tuple(slice(c, c + n) for c, n in zip(cut, own.shape, strict=True))]
            own.copy_(given)


# --- The hash -------------------------------------------------------------------------------------

PLAIN = "families: {convnext: {depth: [2, 3], kernel: 7}, mixer: {}}\ncontrols: [identity, own]"


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n" + PLAIN,
        "controls: {own: {depth: 3}, identity: {}}\n"
        "families:\n  mixer:\n  convnext:\n    kernel: [7]\n    depth: [3, 2]\n",
        "families: [mixer, {convnext: {depth: {choices: [2, 3]}, mlp_ratio: 4.0}}]",
    ],
)
def test_the_hash_does_not_change_with_the_writing(space, same):
    assert space(same, "other.yaml").hash == space(PLAIN).hash


@pytest.mark.parametrize(
    "other",
    [
        "families: {convnext: {depth: [2, 4]}, mixer: {}}",
        "families: {convnext: {depth: [2, 3]}}",
        "families: {convnext: {depth: {low: 2, high: 3}}, mixer: {}}",
        PLAIN + "\nconstraints: {max_params: 1}",
        PLAIN + "\nconstraints: {max_gflops: 1}",
        "families: {convnext: {depth: [2, 3]}, mixer: {}}\ncontrols: [identity]",
        "families: {convnext: {depth: {choices: [2, 3], when: {kernel: 7}}}, mixer: {}}",
        "families: {convnext: {depth: {choices: [2, 3], when: {kernel: 7}, otherwise: 1}},"
        "  mixer: {}}",
    ],
)
def test_the_hash_changes_with_what_the_space_holds(space, other):
    assert space(other).hash != space(PLAIN).hash


def test_the_hash_is_twelve_digits_and_the_same_in_every_process(space):
    # Made with this very text; a change of it parts a run from its study on resume.
    assert space(PLAIN).hash == "c3b8d165075f"


def test_a_space_written_down_is_the_same_space(space):
    text = """
families:
  convnext:
    first_shortcut: [true, false]
    kernel: {choices: [3, 7], when: {first_shortcut: false}, otherwise: 5}
    mlp_ratio: {low: 1, high: 4, log: true}
  swin: {depth: {low: 1, high: 9, step: 4}}
constraints: {max_params: 0.5}
"""
    loaded = space(text)
    again = space(yaml.safe_dump(loaded.written()), "again.yaml")
    assert again.written() == loaded.written()
    assert again.hash == loaded.hash
    assert again.size == loaded.size


# --- What is wrong is said, with the line ---------------------------------------------------------

WRONG = [
    ("", "heads.yaml: the file is empty"),
    (
        "just words\n",
        "heads.yaml:1: a search space must be a mapping (key: value), but is 'just wo",
    ),
    ("families:\n  - [mixer]\n", "heads.yaml:2: an item of the list must be a mapping"),
    ("families: mixer\n", "heads.yaml:1: a list of families must be a mapping"),
    (
        "familes: [mixer]\n",
        "heads.yaml:1: unknown key of a search space 'familes'; did you mean 'fam",
    ),
    ("controls: []\n", "heads.yaml:1: the space is empty"),
    (
        "families:\n  mixer:\n  convnxt: {}\n",
        "heads.yaml:3: unknown family 'convnxt'; did you mean 'convnext'? (choices: attention, b",
    ),
    ("families: [mixer,\n  convnxt]\n", "heads.yaml:2: unknown family 'convnxt'"),
    ("families: [mixer, mixer]\n", "heads.yaml:1: family 'mixer' is there twice"),
    ("families:\n  mixer:\n  swin:\n  mixer:\n", "heads.yaml:4: 'mixer' is there twice (first at "),
    ("families:\n  identity:\n", "heads.yaml:2: 'identity' is a control: list it under `controls`"),
    (
        "controls: [attention]\n",
        "heads.yaml:1: unknown control 'attention' (choices: identity, own)",
    ),
    ("controls:\n  own: {kernel: 3}\n", "heads.yaml:2: unknown parameter of own 'kernel'"),
    (
        "families:\n  convnext:\n    kernal: 3\n",
        "heads.yaml:3: unknown parameter of convnext 'kernal'; did you mean 'kernel'?",
    ),
    ("families:\n  mixer: 3\n", "heads.yaml:2: mixer must be a mapping (key: value), but is 3"),
    (
        "families:\n  convnext:\n    kernel:\n      - 3\n      - 4\n",
        "heads.yaml:5: convnext.kernel must be an odd whole number from 1 to 31, but is 4",
    ),
    (
        "families: {mixer: {depth: yes}}\n",
        "mixer.depth must be a whole number from 1 to 24, but is T",
    ),
    ("families: {mixer: {depth: 25}}\n", "but is 25"),
    ("families: {mixer: {depth: }}\n", "a whole number from 1 to 24, but is empty"),
    ("families: {mixer: {depth: []}}\n", "heads.yaml:1: mixer.depth has no choices"),
    ("families: {mixer: {depth: [2, 2]}}\n", "heads.yaml:1: mixer.depth has the choice 2 twice"),
    ("families: {mixer: {depth: [[2]]}}\n", "but is a list"),
    ("families: {mixer: {depth: [{a: 2}]}}\n", "but is a mapping"),
    ("families: {mixer: {mlp_ratio: .nan}}\n", "mixer.mlp_ratio must be a number from 0.25 to 8"),
    (
        "families: {mixer: {mlp_ratio: 2020-01-01}}\n",
        "must be a number from 0.25 to 8, but is '2020-",
    ),
    ("families: {mixer: {first_shortcut: 1}}\n", "mixer.first_shortcut must be true or false"),
    (
        "families: {mixer: {depth: {}}}\n",
        "heads.yaml:1: mixer.depth needs either choices, or low an",
    ),
    ("families: {mixer: {depth: {low: 2}}}\n", "mixer.depth needs either choices, or low and high"),
    (
        "families: {mixer: {depth: {lo: 2}}}\n",
        "unknown key of mixer.depth 'lo'; did you mean 'low'",
    ),
    (
        "families: {mixer: {depth: {low: 3, high: 3}}}\n",
        "mixer.depth needs low < high, but has 3 an",
    ),
    (
        "families: {mixer: {depth: {low: 1, high: 99}}}\n",
        "mixer.depth must be a whole number from 1 ",
    ),
    (
        "families: {mixer: {depth: {choices: 3}}}\n",
        "the choices of mixer.depth must be a list, but ",
    ),
    ("families: {mixer: {depth: {choices: [3], low: 1}}}\n", "has choices; low belongs to a range"),
    (
        "families: {mixer: {depth: {low: 1, high: 4, step: 2}}}\n",
        "steps of 2 from 1 do not end at 4",
    ),
    (
        "families: {mixer: {depth: {low: 1, high: 4, step: 0.5}}}\n",
        "must be a positive whole number",
    ),
    ("families: {mixer: {depth: {low: 1, high: 4, step: 0}}}\n", "must be a positive whole number"),
    ("families: {mixer: {depth: {low: 1, high: 4, step: x}}}\n", "must be a number, but is 'x'"),
    ("families: {mixer: {depth: {low: 1, high: 4, step: 1, log: true}}}\n", "leave one out"),
    (
        "families: {mixer: {depth: {low: 1, high: 4, log: 1}}}\n",
        "log must be true or false, but is 1",
    ),
    ("families: {convnext: {kernel: {low: 3, high: 7, step: 1}}}\n", "needs an even step, not 1"),
    ("families: {convnext: {kernel: {low: 3, high: 7, log: true}}}\n", "cannot be logarithmic"),
    ("families: {mixer: {first_shortcut: {low: 0, high: 1}}}\n", "give choices, not a range"),
    ("families: {mixer: {depth: {choices: [1], otherwise: 2}}}\n", "has no `when`"),
    (
        "families: {mixer: {depth: {choices: [1], when: 3}}}\n",
        "the `when` of mixer.depth must be a m",
    ),
    ("families: {mixer: {depth: {choices: [1], when: {}}}}\n", "mixer.depth names no parameter"),
    (
        "families: {mixer: {depth: {choices: [1], when: {kernel: 3}}}}\n",
        "unknown parameter of mixer",
    ),
    (
        "families:\n  mixer:\n    depth:\n      choices: [1]\n"
        "      when: {first_shortcut: false}\n",
        "heads.yaml:5: mixer.first_shortcut is never False in this space",
    ),
    (
        "families: {mixer: {mlp_ratio: {low: 1, high: 2},"
        " depth: {choices: [1], when: {mlp_ratio: 1}}}}",
        "mixer.mlp_ratio varies too finely for a condition: give choices",
    ),
    (
        "families:\n  mixer:\n    depth: {choices: [1, 3], when: {mlp_ratio: 4}}\n"
        "    mlp_ratio: {choices: [2, 4], when: {depth: 3}}\n",
        "heads.yaml:3: conditions of mixer depend on one another: ",
    ),
    (
        "constraints: {max_parms: 1}\nfamilies: [mixer]",
        "heads.yaml:1: unknown key of constraints 'max",
    ),
    (
        "families: [mixer]\nconstraints:\n  max_params: big\n",
        "heads.yaml:3: max_params must be a num",
    ),
    (
        "families: [mixer]\nconstraints: {max_params: -1}\n",
        "max_params is a share of the base's and m",
    ),
    ("families: [mixer]\nconstraints: {max_params: .inf}\n", "max_params must be a finite number"),
    (
        "families: [mixer]\nconstraints: {max_params: true}\n",
        "max_params must be a number, but is True",
    ),
    ("families: [mixer\n", "heads.yaml:2: not valid YAML: "),
    ("families:\n\tmixer:\n", "heads.yaml:2: not valid YAML: "),
    ("families: [mixer]\n---\nfamilies: [swin]\n", "heads.yaml:2: not valid YAML: "),
    ("families: \x07\n", "heads.yaml: not valid YAML: "),
    ("1: [mixer]\n", "heads.yaml:1: a key must be a word, but is 1"),
    ("[a]: [mixer]\n", "heads.yaml:1: a key must be a word, but is a list or a mapping"),
    ("families: &f [mixer]\ncontrols: *f\n", "heads.yaml:2: aliases (*f) are not supported"),
    ("families: !!python/name:os.system [mixer]\n", "heads.yaml:1: tags (!...) are not supported"),
    ("families: " + "[" * 3000, "heads.yaml:1: nested more than 20 levels deep"),
    ("#" * 300_000, "heads.yaml: 300000 bytes; settings have at most 262144"),
    ("families: {mixer: {depth: 99999-99-99}}\n", "heads.yaml:1: "),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_in_one_line(space, tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        space(text)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"{tmp_path}/heads.yaml:")
    assert message in said, said


def test_a_file_that_is_no_text_or_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "heads.yaml"
    with pytest.raises(UserError, match=r"heads.yaml: cannot be read \(No such file"):
        load_space(path)
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match=r"heads.yaml: not a text file"):
        load_space(path)


# --- Optuna ---------------------------------------------------------------------------------------

WIDE = """
families:
  convnext:
    depth: [1, 2]
    kernel: {low: 3, high: 11}
    first_shortcut: [true, false]
    mlp_ratio: {choices: [1, 2.5], when: {first_shortcut: false}}
  swin: {depth: 1, window: {low: 2, high: 8}}
  poolformer: {depth: {low: 1, high: 4, log: true}}
  mixer: {depth: 1, token_ratio: {low: 0.1, high: 0.4, step: 0.1}}
  resmlp: {depth: 1}
controls: {identity: , own: {depth: [1, 2]}}
constraints: {max_params: 0.04}
"""


def test_an_enqueued_candidate_comes_back(space):
    resolved = space(WIDE).on(TINY)
    listing = resolved.enumerate(1000)
    everything = [*listing.candidates, *(candidate for candidate, _ in listing.excluded)]
    assert len(listing.candidates) > 20
    assert len(listing.excluded) > 2
    assert len(listing.merged) > 2
    assert len({candidate.name for candidate in everything}) == len(everything)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    for candidate in everything:
        study.enqueue_trial(dict(candidate.trial_params))
    for candidate in everything:
        trial = study.ask()
        assert resolved.suggest(trial) == candidate
        assert trial.params == candidate.trial_params
        study.tell(trial, 0.0)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_tpe_samples_a_large_conditional_space(space):
    text = """
families:
  convnext:
    depth: {low: 1, high: 3}
    first_shortcut: [true, false]
    kernel: {low: 1, high: 31, when: {first_shortcut: false}, otherwise: 7}
    mlp_ratio: {low: 0.5, high: 8, log: true}
  attention: {depth: {low: 1, high: 3}, mlp_ratio: {low: 0.5, high: 8}}
  resmlp: {depth: 1}
"""
    resolved = space(text).on(TINY)
    assert resolved.size is None
    sampler = optuna.samplers.TPESampler(
        seed=0, n_startup_trials=10, multivariate=True, group=True, constant_liar=True
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found = {}
    for _ in range(5):
        trials = [study.ask() for _ in range(8)]  # a cohort is asked for at once
        for trial in trials:
            candidate = resolved.suggest(trial)
            found[candidate.name] = candidate
            # The score that a cohort of one convnext lover would give.
            study.tell(trial, float(candidate.family == "convnext") + 0.01 * candidate.params_m)
    families = Counter(candidate.family for candidate in found.values())
    assert {"convnext", "attention"} <= families.keys()
    assert families["convnext"] > 8
    for name, candidate in found.items():
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
        if candidate.family == "convnext":
            # On 4×4 no kernel matters beyond 7.
            assert candidate.parameters["kernel"] <= 7
            assert (
                candidate.parameters["first_shortcut"] is False
                or candidate.parameters["kernel"] == 7
            )
        assert len(name) < 60


def test_a_sampled_ratio_reads_the_same_in_its_name(space):
    resolved = space("families: {mixer: {depth: 1, mlp_ratio: {low: 1, high: 8}}}").on(TINY)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    ratios = set()
    for _ in range(30):
        candidate = resolved.suggest(study.ask())
        if candidate.family == "mixer":
            ratio = candidate.parameters["mlp_ratio"]
            assert candidate.name in (f"mixer-d1-m{ratio}", "mixer-d1")
            ratios.add(ratio)
    assert len(ratios) > 3


def test_distributions_do_not_depend_on_the_order_of_the_file(space):
    """Optuna refuses a study whose categorical choices changed, and the hash would not tell."""
    texts = (
        "families: {swin: {window: [2, 4]}, mixer: {first_shortcut: [true, false]}}",
        "families: {mixer: {first_shortcut: [false, true]}, swin: {window: [4, 2]}}",
    )
    assert space(texts[0]).hash == space(texts[1]).hash
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(6):
        for text in texts:  # would raise on the second text
            trial = study.ask()
            space(text).on(TINY).suggest(trial)
            study.tell(trial, 0.0)

"""Comparison of runs: which heads are the same, agreement, settings, and the page."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from scipy import stats

import headsearch
from headsearch.errors import UserError
from headsearch.report.comparison import compare, compare_runs, document
from headsearch.report.plots.style import RC
from headsearch.report.statistics.across_runs import agreement_of, by_rung, trained_share
from headsearch.runs.run import Run
from helpers import synthetic_runs
from helpers.command_line import in_process
from helpers.run_directories import write_run

PUBLISHED = Path(__file__).parents[2] / "results" / "cifar10"
"""Runs of an older version: without scores.csv, without a study, with fewer settings."""
HEADS = synthetic_runs.HEADS
CONTROLS = ("own-d2", "identity")
UNPRUNED = dict.fromkeys(HEADS, ("complete", synthetic_runs.RUNGS, ""))
HOSTILE = "<script>alert(1)</script>|`x`"


def shuffled(seed: int, **changes: tuple[str, float, float]) -> dict[str, tuple[str, float, float]]:
    """The same heads, other figures."""
    rng = np.random.default_rng(seed)
    return {
        name: (family, discrepancy * rng.uniform(0.7, 1.3), accuracy + rng.uniform(-0.01, 0.01))
        for name, (family, discrepancy, accuracy) in HEADS.items()
    } | changes


def made(path: Path, seed: int = 0, **options: Any) -> Run:
    """A made-up run under a seed."""
    changes = {"seed": seed, **options.pop("config_changes", {})}
    return synthetic_runs.run(
        path, heads=options.pop("heads", shuffled(seed)), config_changes=changes, **options
    )


def own_names(*runs: Run) -> tuple[dict[str, str], ...]:
    return tuple({name: name for name in run.ranking["candidate"]} for run in runs)


def at_rung(run: Run, rung: int) -> pd.Series[float]:
    """The score of each head that is no control, from scores.csv."""
    rows = run.scores[(run.scores["rung"] == rung) & ~run.scores["candidate"].isin(CONTROLS)]
    return rows.groupby("candidate")["score"].mean()


def written_at(*folders: str) -> dict[Path, int]:
    """When each file in some folders was last written."""
    return {file: file.stat().st_mtime_ns for each in folders for file in Path(each).rglob("*")}


# Agreement


def test_tau_is_that_of_the_heads_in_common_before_pruning(tmp_path: Path) -> None:
    """Both runs prune after rung 1, so that their scores are compared there."""
    runs = made(tmp_path / "a", 1, seeds=3), made(tmp_path / "b", 2, seeds=3)
    found = agreement_of(runs, "score", own_names(*runs))
    assert found.rungs == (1, 1)
    both = pd.concat([at_rung(run, 1) for run in runs], axis=1, join="inner")
    assert found.compared == len(both) == len(HEADS) - 2
    expected = stats.kendalltau(*both.to_numpy().T).statistic
    assert found.tau.value == pytest.approx(expected)
    # Bonett & Wright (2000): Fisher's z with variance 0.437 / (n − 4).
    half = stats.norm.ppf(0.975) * math.sqrt(0.437 / (len(both) - 4))
    bounds = np.tanh(np.arctanh(expected) + np.array([-half, half]))
    assert found.tau[1:] == pytest.approx(tuple(bounds))
    assert {*found.heads.index} == {*HEADS}, "controls are shown, although they do not count"


@pytest.mark.parametrize(("first_rung", "expected"), [(0.0, (1, 1)), (0.5, (1, 2)), (0.9, (1, 4))])
def test_rungs_are_compared_after_the_same_share_of_the_training(
    tmp_path: Path, first_rung: float, expected: tuple[int, int]
) -> None:
    """The first run prunes at its rung 1, which lies elsewhere; the second one prunes nothing."""
    changes = {"first_rung": first_rung}
    runs = made(tmp_path / "a", 1, config_changes=changes), made(tmp_path / "b", states=UNPRUNED)
    found = agreement_of(runs, "accuracy", own_names(*runs))
    assert found.rungs == expected
    assert found.trained[0] == (first_rung or 1 / 4)
    assert trained_share(runs[0], 4) == 1


def test_heads_that_collapsed_do_not_count(tmp_path: Path) -> None:
    collapsed = {"gmlp-d2": ("collapsed", 2, "effective rank 12 of 384")}
    runs = made(tmp_path / "a", states=collapsed), made(tmp_path / "b", 1)
    assert agreement_of(runs, "score", own_names(*runs)).compared == len(HEADS) - 3


def test_a_run_without_scores_csv_gets_its_scores_from_its_rungs(tmp_path: Path) -> None:
    run = made(tmp_path, config_changes={"rank_by": "balanced"})
    older = replace(run, scores=pd.DataFrame())
    rung, name = 1, "mixer-d2-r4"
    row = run.rungs.set_index(["candidate", "rung"]).loc[(name, rung)]
    accuracy = (row["head_knn"] + row["head_linear"]) / 2
    expected = math.sqrt(row["discrepancy"] * accuracy)
    assert by_rung(older, "score").loc[name, rung] == pytest.approx(expected)


def test_few_heads_in_common_give_no_tau(tmp_path: Path) -> None:
    few = dict(list(HEADS.items())[:3])
    runs = made(tmp_path / "a", heads=few), made(tmp_path / "b", 1)
    found = compare_runs(runs)
    assert found.agreement["heads"].eq(3).all()
    assert found.agreement["tau"].isna().all()
    assert any("No rank correlation" in sentence for sentence in found.findings)
    four = compare_runs([made(tmp_path / "a", heads=dict(list(HEADS.items())[:4])), runs[1]])
    assert four.agreement["tau"].notna().all()
    assert four.agreement["tau_low"].isna().all()
    none = {"other-d1": ("other", 0.2, 0.36)}
    assert compare_runs([made(tmp_path / "a", heads=none), runs[1]]).agreement["heads"].eq(0).all()


# Rankings


def test_the_rankings_side_by_side_and_the_mean_rank_of_common_heads(tmp_path: Path) -> None:
    extra = {"only-here-d9": ("mixer", 0.5, 0.5)}
    runs = made(tmp_path / "a", 1), made(tmp_path / "b", 2, heads=shuffled(2, **extra))
    table = compare_runs(runs).rankings.set_index("head")
    assert (table.index[-1], table["runs"].iloc[-1]) == ("only-here-d9", 1)
    assert math.isnan(table.loc["only-here-d9", "mean_rank"])
    assert pd.isna(table.loc["only-here-d9", "rank_A"])
    ranks = [run.ranking.set_index("candidate")["rank"].loc[[*HEADS]].rank() for run in runs]
    expected = pd.concat(ranks, axis=1).mean(axis=1)
    pd.testing.assert_series_equal(
        table.loc[[*HEADS], "mean_rank"], expected, check_names=False, check_dtype=False
    )
    assert table["mean_rank"].dropna().is_monotonic_increasing
    for letter, run in zip("AB", runs, strict=True):
        own = run.ranking.set_index("candidate")
        for column in ("rank", "score", "state", "rungs"):
            assert table[f"{column}_{letter}"].dropna().to_dict() == own[column].to_dict()


def test_different_code_under_one_name_is_another_head(tmp_path: Path) -> None:
    spaces = [
        {"space_content": {"families": {"mixer": {"module": "m.py:f", "sha256": code * 64}}}}
        for code in "ab"
    ]
    runs = [made(tmp_path / s["space_content"]["families"]["mixer"]["sha256"][:1],
                 config_changes=s) for s in spaces]  # fmt: skip
    heads = {*compare_runs(runs).rankings["head"]}
    assert {"mixer-d2-r4 (code aaaaaaaa)", "mixer-d2-r4 (code bbbbbbbb)", "gmlp-d2"} < heads
    assert "mixer-d2-r4" not in heads
    again = made(tmp_path / "c", config_changes=spaces[0])
    assert "mixer-d2-r4" in {*compare_runs([runs[0], again]).rankings["head"]}


# Settings


def test_only_settings_that_differ_are_listed(tmp_path: Path) -> None:
    changes = {"epochs": 5, "device": "cuda", "out": "elsewhere",
               "versions": {"headsearch": "0.2.0", "torch": "2.6.0"}}  # fmt: skip
    runs = made(tmp_path / "a"), made(tmp_path / "b", 1, config_changes=changes)
    table = compare_runs(runs).settings.set_index("setting")
    assert table.loc["epochs"].to_dict() == {"decides": True, "A": "2", "B": "5"}
    assert table.loc["device", "decides"] is np.False_
    assert table.loc["version of headsearch", ["A", "B"]].tolist() == ["0.1.0", "0.2.0"]
    assert {*table.index} == {"epochs", "seed", "device", "version of headsearch"}
    assert table["decides"].is_monotonic_decreasing


def test_a_setting_that_came_later_has_the_value_of_then(tmp_path: Path) -> None:
    """`--views` did not exist in older runs, which cut crops as `small` does now."""
    runs = made(tmp_path / "a"), made(tmp_path / "b", config_changes={"views": "small"})
    assert "views" not in {*compare_runs(runs).settings["setting"]}


def test_images_are_told_by_their_fingerprints_where_all_runs_have_one(tmp_path: Path) -> None:
    def images(level: int) -> dict[str, Any]:
        one = {"images": 8, "image_size": 4, "classes": 2, "labels": "x", "pixels": f"{level:02x}"}
        return {"data_fingerprint": {"sets": {"bank": one}, "halves": "h"}, "data": f"{level}.tar"}

    runs = [made(tmp_path / str(level), config_changes=images(level)) for level in (9, 10, 99)]
    rounded = compare_runs(runs[:2])
    assert not rounded.settings["decides"].any(), "only the path differs, and the rounding"
    assert rounded.cautions == ["No setting that decides the results differs."]
    other = compare_runs(runs)
    assert "By their fingerprints, the images are the same in A and B alone." in other.cautions
    unknown = compare_runs([runs[0], made(tmp_path / "older", 1)])
    assert unknown.cautions[0].startswith("No fingerprint of the images is recorded in B")


# What the page concludes


def test_sentences_on_runs_that_differ_in_the_seed_alone(tmp_path: Path) -> None:
    heads = HEADS | {"mixer-d2-r4": ("mixer", 0.4, 0.45)}
    runs = [made(tmp_path / str(seed), seed, heads=heads) for seed in (0, 1, 2)]
    found = compare_runs(runs)
    first = "mixer-d2-r4"
    assert found.findings[0] == f"{first} ranks first in all 3 runs."
    assert found.findings[1].startswith(f"Among the first 3 of all 3 runs: {first}")
    assert found.findings[2].startswith(
        "Kendall's τ between the scores of two runs lies between 1.00 and 1.00; 3 of 3 pairs are"
    )
    assert "The runs differ in the seed alone: where they disagree" in " ".join(found.cautions)


def test_sentences_on_runs_that_are_hard_to_compare(tmp_path: Path) -> None:
    changes = {"rank_by": "accuracy", "base": "resnet18", "epochs": 9}
    runs = [
        made(tmp_path / "a", heads=HEADS | {"identity": ("identity", 0.5, 0.6)}),
        made(tmp_path / "b", 1, config_changes=changes, last=2, status="running"),
    ]
    found = compare_runs(runs)
    said = " ".join([*found.findings, *found.cautions])
    for part in (
        "The first head is not the same: ",
        "In A the control identity ranks before all heads.",
        "The runs rank by different scores: balanced in A, accuracy in B. Such scores cannot be",
        "The bases differ: ranks can be compared, percentages cannot.",
        "4 settings that decide the results differ (base, epochs, rank_by and seed)",
        "B is not complete (running, rung 2 of 4): its ranks are provisional.",
    ):
        assert part in said, part
    assert found.tables()[0].rows[1][-1] == "running, rung 2 of 4"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"states": dict.fromkeys(HEADS, ("collapsed", 1, "rank 3"))}, "no head in B"),
        ({"last": 0, "status": "running"}, "B has scored the untrained network alone (rung 0)"),
        ({"labelled": False}, "balanced in A, discrepancy in B"),
    ],
)
def test_runs_that_say_little(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    found = compare_runs([made(tmp_path / "a"), made(tmp_path / "b", 1, **options)])
    assert sentence in " ".join([*found.findings, *found.cautions])
    scores = found.agreement[found.agreement["figure"] == "score"]
    assert scores["tau"].isna().all()


# The page


@pytest.fixture
def small_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RC, "savefig.dpi", 30)


def test_the_page_shows_names_as_text(tmp_path: Path, small_plots: None) -> None:
    heads = {HOSTILE: (HOSTILE, 0.3, 0.4), "# b": ("swin", 0.2, 0.38), "c": ("mixer", 0.1, 0.36),
             "d": ("mixer", 0.15, 0.35)}  # fmt: skip
    changes = {"base": HOSTILE, "data": f"{HOSTILE}.tar", "versions": {HOSTILE: HOSTILE}}
    runs = [made(tmp_path / HOSTILE.replace("/", ""), heads=heads, config_changes=changes),
            made(tmp_path / "b", 1, heads=heads)]  # fmt: skip
    page = compare_runs(runs).report(tmp_path / "out")
    html, markdown = page.read_text(), (tmp_path / "out" / "compare.md").read_text()
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)") > 5
    assert html.count("<svg") == 2
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    inline = [token for block in tokens for token in block.children or []]
    assert not {token.type for token in (*tokens, *inline)} & {"html_block", "html_inline"}
    assert {str(token.attrs["src"]) for token in inline if token.type == "image"} == {
        f"plots/{path.name}" for path in (tmp_path / "out" / "plots").glob("*.png")
    }
    assert "&lt;script" in compare_runs(runs)._repr_html_()


def test_a_click_on_a_heading_sorts_the_rankings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium on the path")
    monkeypatch.setattr(document, "PLOTTED", ())
    runs = [made(tmp_path / "a", 1), made(tmp_path / "b", 2)]
    page = compare_runs(runs).report(tmp_path / "out")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab, complaints = started.new_page(), []
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(page.as_uri())
        tab.click("#rankings th:has-text('B: rank') button")
        cells = tab.locator("#rankings tbody tr td:first-child").all_text_contents()
        started.close()
    assert complaints == []
    assert cells == runs[1].ranking.sort_values("rank")["candidate"].tolist()


def test_the_command_compares_published_runs_of_an_older_version(
    tmp_path: Path, small_plots: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(document, "MOST_PAIRS", 1)
    runs = [str(PUBLISHED / name) for name in ("vit-short", "swin-short", "resnet-short")]
    before = written_at(*runs)
    out = tmp_path / "page"
    code, said, err = in_process(capsys, monkeypatch, "compare", *runs, "--out", str(out))
    assert (code, err) == (0, "")
    assert "resmlp-d2 in B and C" in said
    assert f"page: {out / 'compare.html'}" in said
    assert "No scores.csv in A, B and C, as in runs of older versions" in said
    html = re.sub(r"<svg.*?</svg>", "", (out / "compare.html").read_text(), flags=re.DOTALL)
    assert "τ of scores" in html, "three runs have a matrix"
    assert before == {
        file: file.stat().st_mtime_ns for run in runs for file in Path(run).rglob("*")
    }


# What is refused


def test_what_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path / "a")
    empty = made(tmp_path / "b", last=-1, status="running")
    for runs, reason in (
        ([run], "a comparison needs two runs or more"),
        ([run, made(tmp_path / "x" / ".." / "a")], "named twice"),
        ([run, empty], "no head has a score yet"),
        ([run] * 27, "27 runs are too many"),
    ):
        with pytest.raises(UserError, match=reason):
            compare_runs(runs)
    with pytest.raises(UserError, match="no such run directory"):
        compare([tmp_path / "none", tmp_path / "neither"])
    code, _, err = in_process(capsys, monkeypatch, "compare", str(tmp_path), str(tmp_path))
    assert code == 2
    assert "not a run directory" in err


def test_no_page_is_written_into_a_run(tmp_path: Path) -> None:
    other = tmp_path / "another run"
    (other / "plots").mkdir(parents=True)
    for name in ("config.yaml", "ranking.csv"):
        (other / name).write_text("")
    found = compare_runs([made(tmp_path / "a"), made(tmp_path / "b")])
    for folder in (tmp_path / "a" / "page", other, other / "plots"):
        with pytest.raises(UserError, match=r"in the run directory .* with out="):
            found.report(folder)
        assert not (folder / "compare.html").exists()
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write the comparison"):
        found.report(tmp_path / "taken")


def test_in_python(tmp_path: Path) -> None:
    path = write_run(made(tmp_path / "a"))
    found = headsearch.compare([headsearch.load(path), write_run(made(tmp_path / "b", 1))])
    assert isinstance(found, headsearch.Comparison)
    assert found.runs == {"A": path, "B": tmp_path / "b"}
    assert repr(found).startswith("<headsearch comparison of 2 runs: The first head is not the")
    assert len(found.agreement) == 3

"""The report of a run: advice, texts, tables, plots."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from scipy import stats

from headsearch.config.presets import PRESETS
from headsearch.errors import UserError
from headsearch.report import (
    advice,
    plot_columns,
    ranking_legend,
    ranking_table,
    templates,
    write_report,
)
from headsearch.report.columns import COLUMNS
from headsearch.report.content import content
from headsearch.report.document import SCRIPTS
from headsearch.report.plots.discrepancy_accuracy import discrepancy_accuracy
from headsearch.report.plots.labels import spread
from headsearch.report.plots.pruning_timeline import pruning_timeline
from headsearch.report.plots.scores_over_rungs import scores_over_rungs
from headsearch.report.plots.style import family_styles, plotting
from headsearch.report.result import RunView
from headsearch.report.statistics.intervals import Interval
from headsearch.report.statistics.rank_correlation import Correlation, trend
from headsearch.report.tables import baselines_table
from headsearch.runs.run import Run
from headsearch.runs.tables import rank
from headsearch.text import duration
from helpers import synthetic_runs

PLOTS = ("discrepancy_accuracy", "scores_over_rungs", "pruning_timeline")
COLLAPSED = {"gmlp-d2": ("collapsed", 2, "effective rank 12 of 384")}
HOSTILE = "<script>alert(1)</script>|`x`"
UNFINISHED = {
    "nothing scored": {"last": -1, "status": "running", "baselines": {}},
    "untrained only": {"last": 0, "status": "running"},
    "interrupted": {"last": 2, "status": "interrupted", "wall_s": None},
    "no labels": {"labelled": False},
    "all collapsed": {"states": dict.fromkeys(synthetic_runs.HEADS, ("collapsed", 1, "rank 3"))},
    "one candidate": {"heads": {"mixer-d2": ("mixer", 0.2, 0.36)}},
}


def many_heads(number: int) -> dict[str, tuple[str, float, float]]:
    rng = np.random.default_rng(1)
    families = ("attention", "convnext", "mixer", "swin", "resmlp", "poolformer", "bottleneck")
    heads = {
        f"{families[i % 7]}-d{i}-k7-noshortcut-long": (
            families[i % 7],
            float(rng.uniform(0.02, 0.3)),
            float(rng.uniform(0.33, 0.4)),
        )
        for i in range(number)
    }
    return heads | {"identity": ("identity", 0.0, 0.341)}


# The advice


def test_advice_names_the_best_head_why_and_what_it_cannot_be_told_apart_from(tmp_path: Path):
    run = synthetic_runs.run(tmp_path, config_changes={"rank_by": "discrepancy"})
    text = advice(run)
    assert text.startswith("bottleneck-d2-k3: ")
    assert "because among the 5 heads at the same rung it differs most from the base" in text
    assert "discrepancy 0.292, 95% interval 0.268 to 0.316, k-NN 35.5 ± 3.8%" in text
    assert "cannot be told apart from convnext-d3-k7-noshortcut" in text
    assert text.count(". ") == 0
    assert text.endswith(".")


def test_advice_says_when_the_runner_up_is_clearly_behind(tmp_path: Path):
    heads = {
        "a-head": ("mixer", 0.4, 0.4),
        "b-head": ("swin", 0.1, 0.36),
        "identity": ("identity", 0.0, 0.34),
    }
    text = advice(synthetic_runs.run(tmp_path, heads=heads))
    assert "a-head: take this head" in text
    assert "the runner-up b-head (score 0.190, discrepancy 0.100" in text
    assert "clearly behind" in text


def test_advice_never_recommends_a_control(tmp_path: Path):
    heads = {"own-d2": ("own", 0.4, 0.4), "mixer-d2": ("mixer", 0.1, 0.36)}
    text = advice(synthetic_runs.run(tmp_path, heads=heads))
    assert text.startswith("No head is recommended, because the control own-d2 ranks first")
    assert "the best candidate, mixer-d2" in text
    assert text.endswith("is behind it.")
    alone = advice(synthetic_runs.run(tmp_path, heads={"identity": ("identity", 0.0, 0.34)}))
    assert alone == (
        "No head is recommended, because the control identity ranks first and no other head "
        "reached its rung."
    )


def test_advice_names_a_control_that_is_as_good_before_all_others(tmp_path: Path):
    text = advice(synthetic_runs.run(tmp_path, config_changes={"rank_by": "accuracy"}))
    assert text.startswith("No head is worth taking yet")
    assert "cannot be told apart from the control own-d2 and the control identity" in text


def test_advice_when_everything_collapsed_or_nothing_is_scored(tmp_path: Path):
    def of(case: str) -> str:
        return advice(synthetic_runs.run(tmp_path, **UNFINISHED[case]))

    assert of("all collapsed") == (
        "No head is recommended, because all 12 candidates collapsed or failed (rank 3)."
    )
    assert of("nothing scored").startswith("No head can be recommended yet, because no rung")
    assert "only the untrained network" in of("untrained only")
    assert of("interrupted").startswith("Provisional (interrupted at rung 2 of 4): bottleneck")
    assert "without labels it is unknown" in of("no labels")
    assert "there is no comparison" in of("one candidate")


def test_doubts_about_the_data_are_in_the_report_and_blamed_for_a_collapse(tmp_path: Path):
    doubt = "60 of 60 training images of <black> show nothing"
    run = synthetic_runs.run(tmp_path, data_warnings=[doubt], **UNFINISHED["all collapsed"])
    assert f"The data: {doubt}." in content(run).trust
    assert f"the images may be the cause rather than the heads: {doubt}" in advice(run)


def test_advice_warns_where_the_base_has_not_learnt(tmp_path: Path):
    baselines = {"base_knn": 0.27, "untrained_knn": 0.262}
    text = advice(synthetic_runs.run(tmp_path, baselines=baselines))
    assert text.startswith("No head can be recommended yet, because the base is not better")
    assert "take this head" not in text
    assert "train longer" in text
    assert "train longer" not in advice(synthetic_runs.run(tmp_path))


# The report


def test_the_report_says_how_much_the_ranking_depends_on_the_seed(tmp_path: Path):
    one = "\n".join(content(synthetic_runs.run(tmp_path)).trust)
    assert "One seed (0): how much another seed moves the ranks is unknown" in one
    run = synthetic_runs.run(tmp_path, seeds=3)
    several = "\n".join(content(run).trust)
    assert "3 seeds (0 to 2): a head's score scatters by" in several
    table = ranking_table(run)
    assert table.headings[:2] == ["Rank", "Group"]
    assert table.rows[0][0].startswith("1 [1–")
    assert table.rows[0][1].startswith("a")
    pruned = next(row for row in table.rows if "pruned" in row)
    assert pruned[1] == "–"


def test_the_report_tells_of_learning_rates_that_were_lowered(tmp_path: Path):
    first = {"cohort": 0, "rung": 2, "seed": 0, "step": 37, "back_to": 24, "lr": 0.05}
    again = {"cohort": 0, "rung": 2, "seed": 0, "step": 31, "back_to": 0, "lr": 0.025}
    once = "\n".join(content(synthetic_runs.run(tmp_path, lowered=[first])).trust)
    assert "the learning rate was lowered once: to 0.05 from step 24 of cohort 1 on (it had" in once
    assert "are not comparable: search again" not in once
    run = synthetic_runs.run(tmp_path, lowered=[first, again])
    run.ranking.loc[0, "cohort"] = 1
    twice = "\n".join(content(run).trust)
    assert "and to 0.025 from step 0 of cohort 1 on (it had diverged at step 31). It stay" in twice
    assert "different rates are not comparable: search again with --lr 0.025" in twice
    assert "lowered" not in "\n".join(content(synthetic_runs.run(tmp_path)).trust)


def test_the_report_is_complete_offline_and_the_same_each_time(tmp_path: Path):
    written = []
    for folder in ("once", "again"):
        path = tmp_path / folder / "run"
        path.mkdir(parents=True)
        assert write_report(synthetic_runs.run(path, states=COLLAPSED)) == path / "report.html"
        files = sorted(file for file in path.rglob("*") if file.is_file())
        written.append({str(file.relative_to(path)): file.read_bytes() for file in files})
    assert set(written[0]) == {
        "report.md",
        "report.html",
        *(f"plots/{name}.{suffix}" for name in PLOTS for suffix in ("svg", "png")),
    }
    assert written[0] == written[1]

    page = written[0]["report.html"].decode()
    assert "default-src 'none'" in page, "a browser refuses whatever asks for more than the file"
    html = without_scripts(page)
    assert html.count("<svg ") == len(PLOTS)
    assert "<link" not in html
    assert not re.search(r'(?:src|href)="(?!#)', html)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)
    for text in (html, written[0]["report.md"].decode()):
        assert "effective rank 12 of 384" in text
        assert "4 min 52 s" in text
        assert "1.90 × pretraining the base alone" in text
        assert "7.1 times as much" in text
        assert "One seed (0)" in text
        assert "600 reporting images" in text
        assert "arXiv 2310.05108" in text
        assert "headsearch run --base vit" in text


def without_scripts(page: str) -> str:
    """The page without its data and its scripts, which end where they should."""
    parts = re.split(r"<script(?: [^>]*)?>.*?</script>", page, flags=re.DOTALL)
    assert len(parts) == len(SCRIPTS) + 2
    return "".join(parts)


def test_commands_in_sentences_are_shown_as_code(tmp_path: Path):
    write_report(synthetic_runs.run(tmp_path))
    assert "with <code>headsearch run --seeds 3</code>)" in (tmp_path / "report.html").read_text()
    assert "with `headsearch run --seeds 3`)" in (tmp_path / "report.md").read_text()


def test_flags_in_sentences_are_not_broken_across_lines():
    html = str(templates.html("use --eval-images or --seeds, e.g. `headsearch run --seeds 3` <b>"))
    flags = [f'<span class="flag">--{name}</span>' for name in ("eval-images", "seeds")]
    command = "<code>headsearch run --seeds 3</code>"
    assert html == f"use {flags[0]} or {flags[1]}, e.g. {command} &lt;b&gt;"


def test_names_cannot_break_out_of_the_report(tmp_path: Path):
    heads = {HOSTILE: ("mixer", 0.2, 0.36), "swin-d2": ("swin", 0.1, 0.35)}
    run = synthetic_runs.run(
        tmp_path, heads=heads, config_changes={"data": HOSTILE}, device="<script>"
    )
    write_report(run)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        text = without_scripts(text) if name == "report.html" else text
        assert "<script" not in re.sub("```.*?```", "", text, flags=re.DOTALL)
        assert "&lt;script&gt;alert(1)" in text
    lines = (tmp_path / "report.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| 1 "))
    cells = re.split(r"(?<!\\)\|", row)
    assert len(cells) == len(ranking_table(run).headings) + 2


@pytest.mark.parametrize("case", UNFINISHED)
def test_the_report_of_an_unfinished_run_says_what_there_is(tmp_path: Path, case: str):
    run = synthetic_runs.run(tmp_path, **UNFINISHED[case])
    write_report(run)
    text = (tmp_path / "report.md").read_text()
    assert "nan" not in re.findall(r"\w+", text)
    assert {
        "nothing scored": "No rung scored yet",
        "untrained only": "run running, rung 0 of 4 scored",
        "interrupted": "The run is interrupted",
        "no labels": "ranking is by discrepancy",
        "all collapsed": "rank 3",
        "one candidate": "1 candidate head ",
    }[case] in text


def test_the_report_warns_of_what_undermines_it(tmp_path: Path):
    trust = " ".join(content(synthetic_runs.run(tmp_path, dominant_share=0.81)).trust)
    assert "81.0% of the base's variance" in trust
    assert "Pruned heads were last scored at an earlier rung" in trust
    assert "bottleneck-d2-k3 cannot be told apart from convnext-d3-k7-noshortcut" in trust
    assert "variance" not in " ".join(content(synthetic_runs.run(tmp_path)).trust)


def test_the_command_repeats_every_setting_that_the_budget_does_not_set(tmp_path: Path):
    changes = {"epochs": 7, "data": "my folder", "out": "results/x", "seed": 3}
    changes = {**PRESETS["quick"], **changes}
    command = content(synthetic_runs.run(tmp_path, config_changes=changes)).command
    assert command == (
        "headsearch run --base vit_s --space heads.yaml --data 'my folder' --budget quick "
        "--epochs 7 --coupling joint --rank-by balanced --seed 3"
    )


def test_the_command_repeats_the_budget_of_an_older_run(tmp_path: Path):
    older = {**PRESETS["quick"], "images": 1024}
    del older["first_rung"]
    command = content(synthetic_runs.run(tmp_path, config_changes=older)).command
    assert "--images 1024" in command
    assert f"--rungs {PRESETS['quick']['rungs']}" in command  # given rungs are evenly spaced


def test_the_table_leaves_out_empty_columns_and_is_short_for_a_terminal(tmp_path: Path):
    table = ranking_table(synthetic_runs.run(tmp_path, labelled=False))
    assert "k-NN (%)" not in table.headings
    compact = ranking_table(synthetic_runs.run(tmp_path), compact=True)
    assert compact.headings == [
        "Rank", "Candidate", "State", "Rungs", "Score", "Discrepancy", "k-NN (%)", "Linear (%)",
        "Params (M)",
    ]  # fmt: skip
    first = ["1 [1–2]", "bottleneck-d2-k3", "complete", "4", "0.322", "0.292"]
    assert compact.rows[0][:6] == first
    assert all(len(row) == len(compact.numeric) == len(compact.headings) for row in compact.rows)


def ranked_by_accuracy(path: Path) -> Run:
    """A run whose order by score, on the labels that choose, is not that of its k-NN accuracies."""
    heads = {"a": ("mixer", 0.3, 0.36), "b": ("swin", 0.1, 0.40), "identity": ("identity", 0, 0.34)}
    found = synthetic_runs.run(path, heads=heads, config_changes={"rank_by": "accuracy"})
    scores = found.ranking["candidate"].map({"a": 0.39, "b": 0.37, "identity": 0.33})
    return dataclasses.replace(found, ranking=rank(found.ranking.assign(score=scores)))


@pytest.mark.parametrize("compact", [True, False])
def test_the_table_shows_the_score_that_ranks_beside_the_reported_accuracies(
    tmp_path: Path, compact: bool
):
    table = ranking_table(ranked_by_accuracy(tmp_path), compact=compact)
    score, knn, name = (table.headings.index(h) for h in ("Score (%)", "k-NN (%)", "Candidate"))
    assert [(row[name], row[score], row[knn]) for row in table.rows] == [
        ("a", "39.0", "36.0"), ("b", "37.0", "40.0"), ("identity", "33.0", "34.0"),
    ]  # fmt: skip
    by_discrepancy = synthetic_runs.run(tmp_path, config_changes={"rank_by": "discrepancy"})
    assert not any("Score" in h for h in ranking_table(by_discrepancy, compact=compact).headings)


def test_headline_table_and_terminal_say_which_labels_a_figure_is_on(tmp_path: Path):
    run = ranked_by_accuracy(tmp_path)
    write_report(run)
    legend = (
        "Ranked by Score: proxy accuracy, the mean of k-NN and linear accuracy, on the labels that "
        "choose. k-NN and Linear are on the reporting labels, which do not choose."
    )
    assert ranking_legend(run) == legend
    for text in ((tmp_path / name).read_text() for name in ("report.html", "report.md")):
        assert "(score 39.0%, discrepancy 0.300" in text
        assert "k-NN 36.0 ± 3.8% on the reporting labels" in text
        assert legend in text
        assert "Score is used for choosing and reported on the same images" in text
        assert "discrepancy is used for choosing" not in text
    baselines = baselines_table(run)
    assert baselines is not None
    assert baselines.headings[1:] == ["k-NN (reporting labels)", "Linear (reporting labels)"]


@pytest.mark.parametrize(
    ("rank_by", "labelled", "words"),
    [
        ("discrepancy", True, "Ranked by discrepancy from the base. k-NN and Linear are on the"),
        ("auto", False, "Ranked by discrepancy from the base, because there are no labels."),
        ("balanced", True, "proxy accuracy, on the labels that choose. k-NN and Linear are"),
        ("static_prior", True, "Ranked by Score: static_prior (the mean gain of this head, or of"),
    ],
)
def test_the_legend_names_what_ranks(tmp_path: Path, rank_by: str, labelled: bool, words: str):
    changes = {"rank_by": rank_by}
    run = synthetic_runs.run(tmp_path, labelled=labelled, config_changes=changes)
    assert words in ranking_legend(run)
    assert ("labels that choose" in ranking_legend(run)) == (rank_by == "balanced")
    trust = " ".join(content(run).trust)
    by_discrepancy = "discrepancy is used for choosing" in trust
    assert by_discrepancy == (rank_by in ("discrepancy", "auto"))


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder with its time of change and its bytes."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def test_a_report_in_another_directory_leaves_the_run_as_it_is(tmp_path: Path):
    run = synthetic_runs.run(tmp_path / "run")
    run.path.mkdir()
    (run.path / "ranking.csv").write_text("as it was")
    before = state_of(run.path)
    run.path.chmod(0o555)
    try:
        out = tmp_path / "new" / "report"
        assert write_report(run, out) == out / "report.html"
        assert RunView(run).report(str(out)) == out / "report.html"
    finally:
        run.path.chmod(0o755)
    assert state_of(run.path) == before
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "plots"}
    write_report(run)
    for name in ("report.md", "report.html", "plots/pruning_timeline.svg"):
        assert (out / name).read_bytes() == (run.path / name).read_bytes()


def test_a_report_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: cannot write the report: .*; name another .*--out"):
        write_report(synthetic_runs.run(tmp_path), tmp_path / "file")


def test_a_notebook_shows_a_plot_as_a_picture(tmp_path: Path):
    result = RunView(synthetic_runs.run(tmp_path))
    path = result.plot()
    assert path == tmp_path / "plots" / "head_knn-over-discrepancy.png"
    assert isinstance(path, Path)
    shown = path._repr_png_()
    assert shown is not None
    data, size = shown
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx(2 * size["width"], abs=1)
    assert path._repr_svg_() is None
    drawing = result.plot(out=tmp_path / "a.svg")
    assert "<svg" in (drawing._repr_svg_() or "")
    assert drawing._repr_png_() is None
    assert result.plot(out=tmp_path / "a.pdf")._repr_png_() is None
    path.unlink()
    assert path._repr_png_() is None


def test_a_notebook_shows_the_ranking_with_its_plot(tmp_path: Path):
    shown = RunView(ranked_by_accuracy(tmp_path))._repr_html_()
    image = r'<img width="\d+" alt="[^"]+" src="data:image/png;base64,([^"]+)">'
    (picture,) = re.findall(image, shown)
    with Image.open(io.BytesIO(base64.b64decode(picture))) as opened:
        assert opened.width > 700
    assert "Ranked by Score: proxy accuracy" in shown
    assert "score 39.0%" in shown
    assert not list(tmp_path.iterdir()), "showing a result writes nothing"
    assert "<img" not in RunView(synthetic_runs.run(tmp_path, last=-1))._repr_html_()


def test_small_discrepancies_keep_two_digits():
    text = COLUMNS["discrepancy"].text
    assert [text(value) for value in (0.2617, 0.0143, 0.0026, 0.0008, 0.0, math.nan)] == [
        "0.262", "0.014", "0.0026", "0.00080", "0.000", "–",
    ]  # fmt: skip
    assert COLUMNS["head_knn"].text(0.00041) == "0.0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (59.7, "1 min 0 s"), (312.4, "5 min 12 s"), (7320, "2 h 2 min")],
)
def test_durations_read_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text


# The plots


def texts_of(figure: Figure) -> dict[str, list[tuple[float, float, float, float]]]:
    """The extents in pixels of all visible texts."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    unseen = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text() and text not in unseen:
            box = Text.get_window_extent(text, renderer)
            found.setdefault(text.get_text(), []).append(box.extents)
    return found


def small_heads() -> dict[str, tuple[str, float, float]]:
    """Discrepancies over four decades, as after little training."""
    return {
        name: (family, discrepancy * 10.0 ** -(i % 4), accuracy)
        for i, (name, (family, discrepancy, accuracy)) in enumerate(synthetic_runs.HEADS.items())
    }


CROWDED = {
    "usual": {"states": COLLAPSED},
    "forty heads": {"heads": many_heads(40)},
    "no pruning": {
        "heads": many_heads(24),
        "states": dict.fromkeys(many_heads(24), ("complete", 4, "")),
    },
    "close baselines": {
        "baselines": {"base_knn": 0.263, "untrained_knn": 0.262, "raw_knn": 0.2615}
    },
    "untrained only": {"last": 0},
    "four decades": {"heads": small_heads()},
}


@pytest.mark.parametrize("case", CROWDED)
@pytest.mark.parametrize("build", [discrepancy_accuracy, scores_over_rungs, pruning_timeline])
def test_no_text_of_a_plot_overlaps_another_or_leaves_the_figure(tmp_path: Path, case, build):
    run = synthetic_runs.run(tmp_path, **CROWDED[case])
    with plotting():
        figure = build(run)
        width, height = figure.bbox.size
        boxes = [(text, box) for text, group in texts_of(figure).items() for box in group]
    assert len(boxes) > 5
    for text, (x0, y0, x1, y1) in boxes:
        assert x0 >= 0, text
        assert y0 >= 0, text
        assert x1 <= width, text
        assert y1 <= height, text
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{first!r} lies on {second!r}"


def test_the_main_plot_shows_errors_references_and_trend(tmp_path: Path):
    run = synthetic_runs.run(tmp_path, states=COLLAPSED)
    with plotting():
        figure = discrepancy_accuracy(run)
        texts = texts_of(figure)
    (axes,) = figure.axes
    best = run.ranking.iloc[0]
    lines = [np.column_stack(line.get_data()) for line in axes.lines]
    wilson = stats.binomtest(round(best["head_knn"] * 600), 600).proportion_ci(method="wilson")
    across = [[best["discrepancy_low"], 100 * best["head_knn"]],
              [best["discrepancy_high"], 100 * best["head_knn"]]]  # fmt: skip
    along = [[best["discrepancy"], 100 * wilson.low], [best["discrepancy"], 100 * wilson.high]]
    for bar in (across, along):
        assert any(line.shape == (2, 2) and np.allclose(line, bar) for line in lines)
    assert {"base", "untrained", "raw pixels", "bottleneck-d2-k3"} <= set(texts)
    assert "Head k-NN accuracy (%)" in texts
    assert (
        "Discrepancy from the base (1 − CKA)\nsymlog axis: linear below 0.01, then logarithmic"
    ) in texts
    assert any(re.match(r"Rung 1, 11 heads: Kendall's τ = 0\.\d\d \[", text) for text in texts)
    assert {"complete", "pruned", "collapsed", "identity (control)"} <= set(texts)


def test_without_labels_the_main_plot_falls_back_to_effective_rank(tmp_path: Path):
    figure = discrepancy_accuracy(synthetic_runs.run(tmp_path, labelled=False))
    assert figure.axes[0].get_ylabel() == COLUMNS["effective_rank"].title


def test_identity_at_zero_stays_on_a_logarithmic_axis(tmp_path: Path):
    axes = discrepancy_accuracy(synthetic_runs.run(tmp_path)).axes[0]
    assert axes.get_xscale() == "symlog"
    low, high = axes.get_xlim()
    assert low < 0 < 0.3 < high
    assert 0 in axes.get_xticks()


def test_families_differ_in_colour_and_marker_together():
    styles = family_styles([f"family{i}" for i in range(42)] + ["identity", "own"])
    pairs = {(style.colour, style.marker) for style in styles.values()}
    assert len(pairs) == 44


@pytest.mark.parametrize(
    ("x", "y", "suffix"),
    [
        ("params_m", "head_linear", ".svg"),
        ("images", "loss", ".png"),
        ("step_ms", "base_knn", ".pdf"),
    ],
)
def test_any_two_columns_can_be_plotted(tmp_path: Path, x, y, suffix):
    run = synthetic_runs.run(tmp_path)
    out = plot_columns(run, x, y, tmp_path / "new" / f"plot{suffix}")
    first = out.read_bytes()
    assert len(first) > 2000
    plot_columns(run, x, y, out)
    assert out.read_bytes() == first
    if suffix == ".svg":
        ElementTree.fromstring(first)


@pytest.mark.parametrize(
    ("x", "y", "name", "complaint"),
    [
        ("discrepency", "head_knn", "a.png", "did you mean 'discrepancy'"),
        ("gain", "head_knn", "a.png", "unknown column 'gain'"),
        ("family", "head_knn", "a.png", "unknown column 'family'"),
        ("discrepancy", "head_knn", "a.jpg", ".png, .svg, .pdf"),
        ("discrepancy", "head_knn", "a", "no suffix"),
    ],
)
def test_a_plot_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path, x, y, name, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)) as refusal:
        plot_columns(synthetic_runs.run(tmp_path), x, y, tmp_path / name)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / name).exists()


def test_an_empty_column_is_refused(tmp_path: Path):
    run = synthetic_runs.run(tmp_path, labelled=False)
    with pytest.raises(UserError, match="no head has both 'discrepancy' and 'head_knn'"):
        plot_columns(run, "discrepancy", "head_knn", tmp_path / "a.png")


@pytest.mark.parametrize("seed", range(20))
def test_spread_keeps_order_distance_and_bounds(seed):
    rng = np.random.default_rng(seed)
    wanted = rng.uniform(0, 1, size=int(rng.integers(1, 8))).tolist()
    gap = 0.12
    placed = spread(wanted, gap, 0.0, 1.0)
    assert min(placed) >= 0
    assert max(placed) <= 1 + 1e-12
    order = np.argsort(wanted, kind="stable")
    assert all(np.diff(np.array(placed)[order]) >= gap - 1e-12)
    free = [w for w in wanted if min((abs(w - v) for v in wanted if v != w), default=math.inf) > 1]
    assert all(placed[wanted.index(w)] == pytest.approx(w) for w in free)


def test_candidates_that_wait_for_rung_0_are_listed_without_figures(tmp_path: Path):
    run = synthetic_runs.run(tmp_path, last=0, status="running")
    figures = run.ranking.columns[6:-1]
    waiting = run.ranking.assign(**dict.fromkeys(figures, math.nan))
    before = dataclasses.replace(run, ranking=waiting, rungs=run.rungs.iloc[:0])
    write_report(before)
    text = (tmp_path / "report.md").read_text()
    assert "mixer-d2-r4 | running | 0 |" in text
    assert "No rung scored yet" in text
    with plotting():
        assert "no rung scored yet" in texts_of(discrepancy_accuracy(before))


@pytest.mark.parametrize(
    ("p", "low", "verdict"),
    [(0.01, 0.1, "unlikely to be chance"), (0.051, 0.02, "no trend"), (0.04, -0.1, "no trend")],
)
def test_a_trend_is_claimed_where_interval_and_permutation_test_agree(
    p: float, low: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    figure = Interval(0.4, low, 0.7)
    found = synthetic_runs.run(tmp_path)
    real = trend(found, "discrepancy", "head_knn")
    assert real is not None
    made_up = real._replace(correlation=Correlation(12, figure, figure, p))
    monkeypatch.setattr("headsearch.report.caveats.trend", lambda *_: made_up)
    write_report(found)
    (line,) = [s for s in (found.path / "report.md").read_text().splitlines() if "Kendall" in s]
    assert verdict in line

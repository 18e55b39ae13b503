"""The report in a real browser: what somebody who opens it can do, offline, with 40 heads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headsearch.report import write_report
from helpers import synthetic_runs

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "<img src=x onerror=alert(1)>&lt;b&gt;</script>"
CHARTS = ("discrepancy_accuracy", "scores_over_rungs", "pruning_timeline")
# Rounding of positions on the screen, in pixels.
PIXEL = 1


def forty_heads() -> dict[str, tuple[str, float, float]]:
    """38 heads whose names stand for real ones, one with HTML in its name, and a control."""
    rng = np.random.default_rng(1)
    shortcuts = ("", "-noshortcut")
    names = [f"convnext-d{d}-k{k}{n}" for d in (1, 2, 3) for k in (3, 5, 7) for n in shortcuts]
    names += [f"attention-d{d}{n}" for d in (1, 2, 3, 4, 5) for n in shortcuts]
    names += [f"resmlp-d{d}" for d in (1, 2, 3, 4)]
    names += [f"poolformer-d{d}-p{p}" for d in (1, 2, 3) for p in (3, 5)]
    heads = {
        name: (name.split("-")[0], float(rng.uniform(0.02, 0.3)), float(rng.uniform(0.33, 0.4)))
        for name in names
    }
    return heads | {HOSTILE: ("<b>", 0.1, 0.37), "identity": ("identity", 0.0, 0.341)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    with playwright.sync_playwright() as driver:
        # In a container there are no user namespaces for Chromium's sandbox.
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "<i>run"
    run = synthetic_runs.run(path, heads=forty_heads())
    return write_report(run)


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Iterator[Callable[..., Any]]:
    """Opens the report; no page may ask for anything but the file, or raise an error."""
    complaints: list[str] = []

    def opened(scripts: bool = True) -> Any:
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, java_script_enabled=scripts
        )

        def watched(route: Any) -> None:
            if route.request.url == report.as_uri():
                route.continue_()
            else:
                complaints.append(f"request: {route.request.url}")
                route.abort()

        context.set_default_timeout(180_000)  # on a busy machine, which is no fault of the page
        context.route("**/*", watched)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(report.as_uri())
        if scripts:
            drawn(page)
        return page

    yield opened
    assert complaints == []


@pytest.fixture(scope="module")
def shared(opened: Callable[..., Any]) -> Any:
    """One page for all tests, because drawing is what takes time."""
    return opened()


@pytest.fixture
def page(shared: Any) -> Any:
    """The page as it is when it is opened."""
    shared.mouse.move(0, 0)
    shared.evaluate(
        """() => {
          clear();
          for (const control of document.querySelectorAll(".tools input, .tools select")) {
            control.value = control.max || "";
            control.dispatchEvent(new Event("input"));
          }
        }"""
    )
    drawn(shared)
    return shared


def drawn(page: Any) -> None:
    """Waits until all charts are drawn."""
    page.wait_for_function("document.documentElement.dataset.drawn")
    page.evaluate("drawing")


def resized(page: Any, width: int) -> None:
    """Gives the page another width, for which it draws its charts anew."""
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("draw()")


def column(page: Any, heading: str) -> list[str]:
    """The texts of the visible cells below a heading."""
    return list(
        page.evaluate(
            """heading => {
              const table = document.getElementById("ranking");
              const cells = [...table.tHead.rows[0].cells];
              const k = cells.findIndex((cell) => cell.textContent.startsWith(heading));
              const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
              return rows.map((row) => row.cells[k].textContent);
            }""",
            heading,
        )
    )


def strongest(page: Any, chart: str) -> set[str]:
    """The heads that a chart draws at full strength."""
    return set(
        page.evaluate(
            """name => document.querySelector(`.chart[data-chart=${name}]`).data
              .filter((trace) => trace.customdata && trace.opacity > 0.4)
              .map((trace) => data.heads[trace.customdata[0]].name)""",
            chart,
        )
    )


def test_headings_sort_by_value_with_pointer_and_keyboard(page: Any) -> None:
    heading = page.locator("#ranking th", has_text="Discrepancy")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    values = [float(text.split(" [")[0]) for text in column(page, "Discrepancy")]
    assert len(values) == 40
    assert values == sorted(values)
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert float(column(page, "Discrepancy")[0].split(" [")[0]) == max(values)
    page.locator("#ranking th", has_text="Rank").first.get_by_role("button").press("Enter")
    ranks = [int(text.split(" ")[0]) for text in column(page, "Rank")]
    assert ranks == list(range(1, 41)), "ranks sort as numbers, whatever stands behind them"
    assert heading.get_attribute("aria-sort") is None


def test_filters_by_text_state_and_family_hold_for_table_and_charts(page: Any) -> None:
    page.get_by_label("Family").select_option("attention")
    assert len(column(page, "Candidate")) == 10
    page.get_by_label("State").select_option("pruned")
    pruned = column(page, "Candidate")
    assert set(column(page, "State")) == {"pruned"}
    page.get_by_label("Filter").fill("d2-NO")
    assert column(page, "Candidate") == [name for name in pruned if "d2-no" in name] != []
    assert "of 40 heads" in page.locator(".tools output").first.text_content()
    drawn(page)
    for chart in ("discrepancy_accuracy", "pruning_timeline"):
        assert strongest(page, chart) == set(column(page, "Candidate"))


def test_a_head_under_the_pointer_or_in_focus_shows_its_figures_and_its_yaml(page: Any) -> None:
    card = page.get_by_role("complementary")
    assert not card.is_visible()
    row = page.locator("#ranking tbody tr", has_text="convnext-d1-k5-noshortcut")
    row.hover()
    text = card.inner_text()
    assert "convnext-d1-k5-noshortcut" in text
    assert row.locator("td", has_text="[").last.inner_text() in text, "its discrepancy"
    for line in ("families:\n  convnext:", "kernel: 5", "first_shortcut: false"):
        assert line in text
    page.get_by_role("button", name="resmlp-d3").focus()
    assert "resmlp-d3" in card.inner_text()
    page.keyboard.press("Escape")
    assert not card.is_visible()

    page.mouse.move(0, 0)
    name = column(page, "Candidate")[0]
    page.locator(".chart[data-chart=discrepancy_accuracy]").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.plots').scrollIntoView()")
    box = marker_of(page, name)
    page.mouse.move(*box)
    page.wait_for_function("!document.getElementById('card').hidden")
    assert card.locator("h3").inner_text() == name
    page.mouse.click(*box)
    assert page.locator("tr.chosen .head").inner_text() == name


def marker_of(page: Any, name: str) -> tuple[float, float]:
    """Where the marker of a head lies on the screen, in the chart of accuracy."""
    x, y = page.evaluate(
        """name => {
          const box = document.querySelector(".chart[data-chart=discrepancy_accuracy]");
          const trace = box.data.find((t) => t.customdata
            && data.heads[t.customdata[0]].name === name);
          const area = plotArea(box.layout), at = box.getBoundingClientRect();
          return [at.left + area.toX(trace.x.at(-1)), at.top + area.toY(trace.y.at(-1))];
        }""",
        name,
    )
    return x, y


def test_a_click_highlights_a_head_in_the_table_and_in_all_charts(page: Any) -> None:
    name = "poolformer-d2-p3"
    assert len(strongest(page, "pruning_timeline")) == 40
    button = page.get_by_role("button", name=name)
    button.click()
    drawn(page)
    assert button.get_attribute("aria-pressed") == "true"
    for chart in CHARTS:
        assert strongest(page, chart) == {name}
    page.keyboard.press("Escape")
    drawn(page)
    assert button.get_attribute("aria-pressed") == "false"
    assert len(strongest(page, "pruning_timeline")) == 40


def test_a_control_shows_the_heads_at_a_rung(page: Any) -> None:
    slider = page.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "4"
    drawn(page)
    shown = strongest(page, "discrepancy_accuracy")
    page.keyboard.press("Escape")
    page.get_by_label("State").select_option("complete")
    assert shown == set(column(page, "Candidate")), "only these were scored at the last rung"


@pytest.mark.parametrize("width", [420, 1280])
def test_forty_labels_overlap_neither_one_another_nor_the_edge(page: Any, width: int) -> None:
    resized(page, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for chart in CHARTS:
        boxes = page.evaluate(
            """name => {
              const box = document.querySelector(`.chart[data-chart=${name}]`);
              const frame = box.getBoundingClientRect();
              return [...box.querySelectorAll(".annotation-text, .xtick, .ytick, .g-ytitle")]
                .map((text) => [text.textContent, text.getBoundingClientRect()])
                .map(([text, r]) => [text, r.left - frame.left, r.top - frame.top,
                  r.right - frame.left, r.bottom - frame.top, frame.width, frame.height]);
            }""",
            chart,
        )
        for text, x0, y0, x1, y1, wide, high in boxes:
            inside = x0 >= -PIXEL and y0 >= -PIXEL and x1 <= wide + PIXEL and y1 <= high + PIXEL
            assert inside, f"{text} leaves {chart}"
        for k, (text, x0, y0, x1, y1, *_) in enumerate(boxes):
            for other, a0, b0, a1, b1, *_ in boxes[k + 1 :]:
                apart = x1 <= a0 + PIXEL or a1 <= x0 + PIXEL or y1 <= b0 + 4 or b1 <= y0 + 4
                assert apart, f"{text} lies on {other} in {chart}"
        labels = {text for text, *_ in boxes}
        if chart == "discrepancy_accuracy":
            ranks = set(map(str, range(1, 41)))
            named = {head for head in forty_heads() if head[:29] in {t[:29] for t in labels}}
            assert len(named) + len(labels & ranks) >= 40, "each head has a label"
            assert {"base", "untrained", "raw pixels"} <= labels
            assert any(text.endswith("linear below 0.01, then logarithmic") for text in labels)


def test_names_with_html_are_shown_as_they_are(page: Any) -> None:
    assert page.title() == "Head search: <i>run"
    page.locator("#ranking tbody tr", has_text="<img").click()
    drawn(page)
    assert page.get_by_role("complementary").locator("h3").inner_text() == HOSTILE
    assert page.locator("img, script[src]").count() == 0
    for chart in CHARTS[:2]:
        labels = page.locator(f".chart[data-chart={chart}] .annotation-text").all_text_contents()
        assert f"{HOSTILE[:29]}…" in labels


def test_without_scripts_the_page_shows_the_table_and_the_static_plots(
    opened: Callable[..., Any],
) -> None:
    page = opened(scripts=False)
    assert page.locator("#ranking tbody tr").count() == 40
    plots = page.locator("figure .still svg")
    assert plots.count() == len(CHARTS)
    assert all(plot.is_visible() for plot in plots.all())
    for absent in (".tools", ".chart", "#card"):
        assert not any(found.is_visible() for found in page.locator(absent).all())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_rules_hold_in_both_colour_schemes(page: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.emulate_media(color_scheme=scheme)
    page.get_by_role("button", name="resmlp-d3").click()
    drawn(page)
    # Not the inside of the charts: axe cannot judge texts of an SVG, and looks at each for long.
    found = axe.Axe().run(page, context={"exclude": [[".chart > *"]]})
    faults = [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found.response["violations"]
        for node in each["nodes"]
    ]
    assert faults == []

"""What others made does no harm: names in every medium, and files that are more than they seem.

Weights with code in them, tags and aliases in spaces and settings, and archives that climb out of
their folder have their cases in test_bad_input.py, test_base_weights.py and test_data.py.
"""

from __future__ import annotations

import csv
import io
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from rich.live import Live
from rich.text import Text

import headsearch
from headsearch.data.image.skipped import LISTED_IN
from headsearch.errors import UserError
from headsearch.pretraining.verification import Verification
from headsearch.report import Table, write_report
from headsearch.report.assets import PLOTLY, script
from headsearch.report.console import print_table
from headsearch.runs.console import HarmlessConsole, print_notes, say
from headsearch.runs.directory import create, new_run_directory
from headsearch.runs.run import read_run
from headsearch.runs.snapshot import BEFORE, FOLDER, LATEST, read_snapshot
from headsearch.runs.tables import write_table
from helpers import synthetic_runs
from helpers.command_line import in_process
from helpers.image_files import open_small, png, tar

NAMES = {
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a comment's end": "--!><script>alert(1)</script>",
    "Markdown": "[x](javascript:alert(1)) ![y](http://a.b/c.png) `z` | *w* ~~v~~ https://a.b",
    "a Markdown block": "# heading",
    "lines": "x\n\n```\n<script>\n\n- y",
    "a window's title": "\x1b]0;owned\x07title",
    "colours and movements": "\x1b[31m\x1b[2Jred\x9b1A",
    "a carriage return": "good\rbad",
    "writing turned round": "a\u202egnp.exe",
    "bytes that are no UTF-8": b"\xff\xfe".decode("utf-8", "surrogateescape"),
    "a formula": "=cmd|'/C calc'!A0",
    "a formula with plus": "+1+1",
    "a formula with minus": "-1+1",
    "a formula with at": "@SUM(1,1)",
    "a formula behind a tab": "\t=1+1",
    "a formula behind a line end": "\r=1+1",
    "a formula in full width": "＝1+1",
    "a way up": "../../up",
    "a way to the root": "/etc/passwd",
    "a way on Windows": "..\\..\\up",
    "mathematics": r"$\frac{1}$ and $x^$",
}  # fmt: skip
"""Of heads, families, classes, files, data sets and machines."""

IN_UTF_8 = [name for name in NAMES.values() if "\udcff" not in name]

OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys or cannot show; line ends apart."""


@pytest.mark.parametrize("case", NAMES)
def test_console(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, written = NAMES[case], io.StringIO()
    console = HarmlessConsole(file=written, highlight=False, markup=False, width=400)
    say(console, f"· {name}")
    console.print(f"run directory: {name}", soft_wrap=True)
    print_table(console, Table(["Candidate"], [False], [[name]]))
    assert not OBEYED.search(written.getvalue())
    assert len(written.getvalue().encode()) > 3 * len(name)


def test_a_live_display_moves_the_terminal_and_names_do_not() -> None:
    written = io.StringIO()
    console = HarmlessConsole(file=written, force_terminal=True, width=80, _environ={})
    with Live(Text("\x1b]0;owned\x07"), console=console, refresh_per_second=1):
        pass
    assert r"\x1b]0;owned" in written.getvalue()
    assert "\x1b]0" not in written.getvalue()
    assert "\x1b[?25l" in written.getvalue()  # the cursor, hidden by the display itself


@pytest.mark.parametrize("case", NAMES)
def test_an_error_is_one_line_of_text(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = in_process(capsys, monkeypatch, "report", "--", NAMES[case])
    assert code == 2
    assert not OBEYED.search(err)
    assert err.count("\n") == 1


def test_csv(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv", pd.DataFrame({"name": NAMES.values(), "value": -0.5}))
    text = (tmp_path / "table.csv").read_text()
    assert not OBEYED.search(text)
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["name", "value"]
    assert len(rows) == len(NAMES)
    for cell, value in rows:
        assert cell[0] not in "=+-@\t\r\n＝＋－＠"
        assert value == "-0.5", "a figure is no text"


class Page(HTMLParser):
    """The tags and attributes of a page, outside of its plots, and the plots' labels."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that somebody else has written, full of such names."""
    path = tmp_path_factory.mktemp("run") / "\x1b[31m<b>=1+1"
    heads = {name: (name, 0.2 + k / 100, 0.36) for k, name in enumerate(IN_UTF_8)}
    block = NAMES["a Markdown block"]  # heads that failed have a line that begins with them
    made = synthetic_runs.run(path, heads=heads, states={block: ("failed", 2, block)})
    aside = made.ranking.assign(reason=made.ranking["candidate"])
    create(path, {**made.config, "data": "\n".join(NAMES.values()), "versions": {"<i>": "\x1b[1m"}})
    for name, frame in (("ranking", aside), ("rungs", made.rungs)):
        frame.to_csv(path / f"{name}.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    write_report(read_run(path))
    return path


def test_html(report: Path, tmp_path: Path) -> None:
    text = (report / "report.html").read_text().replace(script(PLOTLY), "")  # has tabs
    assert not OBEYED.search(text)
    write_report(synthetic_runs.run(tmp_path))
    harmless, found = Page((tmp_path / "report.html").read_text()), Page(text)
    assert found.tags <= harmless.tags
    assert found.attributes <= harmless.attributes
    assert "&lt;script&gt;alert(1)" in text


def test_markdown(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert not OBEYED.search(text)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    inline = [token for block in tokens for token in block.children or []]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_block", "html_inline", "link_open", "s_open"}
    code = [token.content for token in inline if token.type == "code_inline"]
    assert all(re.fullmatch(r"headsearch [a-z]+ [A-Za-z0-9 -]+", each) for each in code), code
    images = [str(token.attrs["src"]) for token in inline if token.type == "image"]
    assert images == [f"plots/{path.stem}.png" for path in _plots(report, ".png")]
    assert sum(token.type == "fence" for token in tokens) == 1
    headings = [token for token in tokens if token.type == "heading_open"]
    assert [token.tag for token in headings] == ["h1"] + ["h2"] * (len(headings) - 1)
    tables = text.split("## Ranking")[1].split("\n\n")[1].splitlines()
    assert len(tables) == 2 + len(IN_UTF_8)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in tables}) == 1


def test_plots(report: Path) -> None:
    for path in _plots(report, ".svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not tags & {"script", "image", "a", "foreignObject"}


def _plots(report: Path, suffix: str) -> list[Path]:
    order = ("discrepancy_accuracy", "scores_over_rungs", "pruning_timeline")
    return sorted((report / "plots").glob(f"*{suffix}"), key=lambda path: order.index(path.stem))


@pytest.mark.parametrize("case", NAMES)
def test_file_names(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is made for a head, and of what is removed to be made anew."""
    monkeypatch.chdir(tmp_path)
    label = new_run_directory(None, NAMES[case])
    assert re.fullmatch(r"results/[A-Za-z0-9.-]+", str(label))

    (tmp_path / "up-seed0").mkdir()
    (tmp_path / "up-seed0" / "precious").touch()
    heads = {NAMES[case]: ("mixer", 0.3, 0.4)}
    run = synthetic_runs.run(tmp_path / "results" / "run", heads=heads)
    create(run.path, {"base": "test_vit", "image_size": 16, "patch_size": 4})
    with pytest.raises(UserError, match="is no name of a head"):
        Verification(run, top=1, controls=False, device="cpu")
    assert (tmp_path / "up-seed0" / "precious").exists()


@pytest.mark.parametrize("case", NAMES)
def test_classes_and_files_of_an_archive(
    case: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A class in an error, files in the notes and in the list of what is left out."""
    monkeypatch.chdir(tmp_path)
    name = NAMES[case].replace("/", "-").strip(".-") or "x"
    tar(tmp_path / "one.tar", {f"{name}/{number}.png": png(number) for number in range(40)})
    flags = ["--space", "controls.yaml", "--base", "test_vit", "--device", "cpu"]
    code, _, err = in_process(
        capsys, monkeypatch, "run", "--data", "scenes", "--eval-data", "one.tar", *flags
    )
    assert code == 2
    assert "of one class only" in err
    assert not OBEYED.search(err)

    (tmp_path / "run").mkdir()
    files = {f"{number}.png": png(number) for number in range(70)}
    data = open_small(tar(tmp_path / "bad.tar", {**files, f"{name}.png": b"", name: b""}))
    written = io.StringIO()
    print_notes(HarmlessConsole(file=written, width=400), data.notes)
    assert not OBEYED.search(written.getvalue())
    data.left_out.list_in(tmp_path / "run")
    listed = (tmp_path / "run" / LISTED_IN).read_text()
    assert len(listed.splitlines()) == 2
    assert not OBEYED.search(listed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar", "one.tar", "run"]


class Malicious:
    """What a pickle runs when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_a_snapshot_that_is_a_pickle(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for name in (LATEST, BEFORE):
        (tmp_path / FOLDER / name).write_bytes(pickle.dumps(Malicious(tmp_path / "hacked")))
    assert read_snapshot(tmp_path) is None
    assert not (tmp_path / "hacked").exists()
    pickle.loads((tmp_path / FOLDER / LATEST).read_bytes())
    assert (tmp_path / "hacked").exists(), "it would have"


def test_all_consoles_are_of_that_kind() -> None:
    """Through rich's own, names are obeyed."""
    written = io.StringIO()
    Console(file=written, highlight=False, markup=False).print("\x1b[31mred")
    assert "\x1b[31m" in written.getvalue()
    package = Path(headsearch.__file__).parent
    made = {f.name for f in package.rglob("*.py") if re.search(r"\bConsole\(", f.read_text())}
    assert made == set()

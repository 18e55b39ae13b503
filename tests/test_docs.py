"""The documentation site: it builds without a warning, leads nowhere else, and names everything."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

import headsearch
from headsearch.cli.commands import app
from headsearch.models.heads import FAMILIES
from headsearch.training.objectives import OBJECTIVES

pytest.importorskip("mkdocs", reason="the site needs headsearch[docs]")
pytest.importorskip("mkdocstrings", reason="the site needs headsearch[docs]")
ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""What a page loads while it is read, by tag and attribute."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `mkdocs build --strict` does: a wrong link or anchor is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    built = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(built)))
    return built


class Loads(HTMLParser):
    """Collects the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADED.get(tag, ""))
        if address:
            self.addresses.append(address)


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        outside = [x for x in loads.addresses if x.startswith(("http:", "https:", "//"))]
        assert outside == [], page
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text(encoding="utf-8"), sheet


def test_the_reference_has_every_command_and_every_flag(site: Path) -> None:
    page = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    program = typer.main.get_command(app)
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        assert (f'id="{name}"' in page) != command.hidden, name
        for flag in () if command.hidden else command.params:
            own = f'id="{name}-{flag.name.replace("_", "-")}"'
            assert own in page or f'href="#run-{flag.name.replace("_", "-")}"' in page, own


def test_the_reference_has_every_name_of_the_python_api(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in headsearch.__all__:
        assert f'id="headsearch.{name}"' in page, name


@pytest.mark.parametrize(("page", "names"), [("heads", FAMILIES), ("objectives", OBJECTIVES)])
def test_every_family_and_objective_has_its_shapes_and_its_source(
    site: Path, page: str, names: dict[str, object]
) -> None:
    text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
    _, *sections = text.split("<h2 id=")
    sections_by_name = {section.split('"')[1]: section for section in sections}
    for name in names:
        section = sections_by_name[name]
        assert "Shapes:" in section, name
        assert "https://arxiv.org/abs/" in section or name == "identity", name


def test_pages_lead_to_copies_of_the_repositorys_files(site: Path) -> None:
    assert "Heads on sequences" in (site / "repository" / "CHANGELOG.html").read_text()
    scaling = (site / "photos.html").read_text(encoding="utf-8")
    assert 'href="repository/results/data/reading.csv"' in scaling
    copy = site / "repository" / "results" / "data" / "reading.csv"
    assert copy.read_bytes() == (ROOT / "results" / "data" / "reading.csv").read_bytes()

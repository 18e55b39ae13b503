"""The distribution: it builds, holds what it needs and nothing else, and its parts agree."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("build", reason="packaging needs headsearch[test]")
pytest.importorskip("setuptools", minversion="77", reason="older ones do not read setup.cfg")
ROOT = Path(__file__).parents[1]
SOURCES = ("headsearch", "search_spaces", "README.md", "LICENSE", "setup.cfg", "pyproject.toml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that nothing is written among them."""
    root = tmp_path_factory.mktemp("packaging")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, root / "sources" / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, root / "sources" / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(root)]
    done = subprocess.run(
        [*command, str(root / "sources")], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(root.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    def files(folder: str) -> set[str]:
        found = (ROOT / folder).rglob("*")
        return {
            str(path.relative_to(ROOT)) for path in found
            if path.is_file() and "__pycache__" not in path.parts
        }  # fmt: skip

    spaces = {f"headsearch/{path}" for path in files("search_spaces")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    facts = {name for name in names if ".dist-info/" in name}
    assert names - facts == files("headsearch") | spaces
    assert any(name.endswith("licenses/LICENSE") for name in facts)


def test_the_description_renders(wheel: Path) -> None:
    pytest.importorskip("twine", reason="packaging needs headsearch[test]")
    command = [sys.executable, "-m", "twine", "check", "--strict", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_version_is_the_same_everywhere() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    version = settings["metadata"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(r"^## (.+)$", changes, re.MULTILINE)
    assert heading is not None
    assert heading[1].split()[0] == version

"""The layout of the package: what import-linter does not count (CONTRIBUTING.md, "The house")."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import headsearch
from headsearch.models import heads

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "headsearch"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = ("benchmarks", "docs", "examples")
LONGEST_FILE, LONGEST_FUNCTION = 400, 72
"""In lines; a function's are those of its body."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in MODULES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def test_at_most_twelve_packages_and_nine_files_at_the_top() -> None:
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    files = [path.name for path in PACKAGE.glob("*.py")]
    assert len(packages) <= 12, packages
    assert len(files) <= 9, files


def test_every_package_is_installed() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = settings["options"]["packages"].split()
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in MODULES
        if path.name == "__init__.py"
    }  # fmt: skip
    assert sorted(listed) == sorted({*found, "headsearch.search_spaces"})


def test_no_file_and_no_function_is_too_long() -> None:
    files = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: lines for path, lines in files.items() if lines > LONGEST_FILE} == {}
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.body[0].lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def test_no_module_imports_a_private_name_of_another() -> None:
    private = [
        f"{path}:{node.lineno} {alias.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headsearch")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert private == []


def test_every_module_says_in_its_first_line_what_is_in_it() -> None:
    silent = [path for path, tree in trees() if not (ast.get_docstring(tree) or "").split("\n")[0]]
    assert silent == []


def test_families_of_users_own_may_still_import_from_headsearch_heads() -> None:
    code = "from headsearch.heads import Family, Parameter; print(Family.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == heads.Family.__module__
    assert Path(headsearch.__file__).parent == PACKAGE


def test_scripts_import_only_names_that_the_package_has() -> None:
    """Benchmarks take hours: most of them are run by no test."""
    files = sorted(file for folder in SCRIPTS for file in (ROOT / folder).rglob("*.py"))
    assert len(files) > 20
    wrong = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("headsearch"):
                for each in node.names:
                    line = f"from {node.module} import {each.name}"
                    try:
                        exec(line, {})  # also finds modules, which their package may not name
                    except ImportError as error:
                        wrong.append(f"{file.name}, line {node.lineno}: {error}")
    assert wrong == []

"""Links from pages to the repository's other files: they lead to a copy of the file in the site.

The site has no other place to link to, since the repository may lie anywhere. A Markdown file that
is linked becomes a page of its own: CHANGELOG.md is the page repository/CHANGELOG.md, in `nav` too.
Any other file is copied, and the link to a folder becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

COPIES = "repository/"
"""The folder of the site in which the repository's files lie, under their paths."""

LINK = re.compile(r"""(?P<text>\[(?P<words>[^][]*)\])\((?P<link>[^)\s#:]+)(?P<rest>#[^)\s]*)?\)""")
"""A relative link or picture of Markdown: words, file and anchor."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that pages of the site and of `nav` name, and those that these name."""
    root = Path(config.config_file_path).parent
    waiting = [*_named(files, root), *_in_nav(config.nav or [])]
    while waiting:
        path = waiting.pop()
        source = COPIES + path
        if files.get_file_from_path(source) is None:
            copy = File.generated(config, source, abs_src_path=str(root / path))
            files.append(copy)
            waiting += _named(Files([copy]), root)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to the repository's files into links to their copies."""
    root = Path(config.config_file_path).parent
    here = posixpath.dirname(page.file.src_uri)

    def turned(found: re.Match[str]) -> str:
        path = _path(page.file.src_uri, found["link"])
        if (root / path).is_dir():
            return found["words"]
        target = path.removeprefix("docs/") if path.startswith("docs/") else COPIES + path
        if files.get_file_from_path(target) is None:
            return found[0]  # which mkdocs reports, or which is no link of Markdown
        link = posixpath.relpath(target, here)
        return f"{found['text']}({link}{found['rest'] or ''})"

    return LINK.sub(turned, markdown)


def _named(files: Files, root: Path) -> Iterator[str]:
    """The paths in the repository, outside docs/, of the files that pages link to."""
    for file in files.documentation_pages():
        for found in LINK.finditer(file.content_string):
            path = _path(file.src_uri, found["link"])
            if not path.startswith(("docs/", "../")) and (root / path).is_file():
                yield path


def _path(page: str, link: str) -> str:
    """The path in the repository of what a page links to."""
    source = page.removeprefix(COPIES) if page.startswith(COPIES) else f"docs/{page}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _in_nav(entries: object) -> Iterator[str]:
    """The paths of the repository's files that `nav` names."""
    if isinstance(entries, str) and entries.startswith(COPIES):
        yield entries.removeprefix(COPIES)
    elif isinstance(entries, dict | list):
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from _in_nav(entry)

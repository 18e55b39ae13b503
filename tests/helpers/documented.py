"""The code blocks of the documentation, and the commands of headsearch in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("", "bash", "sh", "shell", "console")
"""Languages of blocks with commands; an indented block has none."""
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
ELLIPSES = ("…", "...")
"""Words that stand for further flags."""


@dataclass(frozen=True)
class Block:
    """A code block: the page and line where it begins, its language, and why it is not run."""

    where: str
    language: str
    code: str
    not_run: str | None

    def commands(self) -> Iterator[Command]:
        """The commands of headsearch in it; none in a block of another language."""
        if self.language not in SHELL:
            return
        for line in self.code.replace("\\\n", " ").splitlines():
            for words in _parts(line):
                at = _program(words)
                if at is None:
                    continue
                arguments = [word for word in words[at + 1 :] if word not in ELLIPSES]
                open_flags = len(arguments) < len(words) - at - 1
                yield Command(
                    self.where, arguments,
                    self.not_run
                    or ("torchrun starts its processes" if "torchrun" in words[:at] else None)
                    or ("its flags are left open" if open_flags else None),
                )  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command of headsearch: where it stands, its words, and why it is not run, if it is not."""

    where: str
    arguments: list[str]
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.where}: headsearch {shlex.join(self.arguments)}"


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page, fenced or indented.

    `<!-- not run: REASON -->` right above a block says why it is not run.
    """
    before: Token | None = None
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            reason = NOT_RUN.search(before.content) if before is not None else None
            line = (token.map or [0])[0] + 1
            words = token.info.split()
            yield Block(
                f"{page.relative_to(ROOT)}:{line}", words[0] if words else "", token.content,
                " ".join(reason[1].split()) if reason else None,
            )  # fmt: skip
        before = token if token.type == "html_block" else None


def _parts(line: str) -> Iterator[list[str]]:
    """The words of each command in a line of a shell, without its comment."""
    words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    part: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", "||", ";", "|"):
            yield part
            part = []
        else:
            part.append(word)


def _program(words: list[str]) -> int | None:
    """Where headsearch stands in a command, as its program or after `-m`; None if it does not."""
    for at, word in enumerate(words):
        if word.rpartition("/")[2] == "headsearch":
            assigned = all(re.match(r"[A-Z_]+=", before) for before in words[:at])
            return at if assigned or words[at - 1] == "-m" else None
    return None

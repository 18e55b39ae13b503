"""The report's section on what `explain` found: sentences, and the pictures in RUN/explain."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from headsearch.report.findings import FOLDER, MEASURES, read_findings, summary
from headsearch.runs.run import Run

CAPTIONS = {
    **{name: f"{measure.question} Means over seeds; bands and bars reach from the least to the "
       "greatest seed." for name, measure in MEASURES.items()},
    "change_blocks": "CKA of every block with every block of the base with no head of the same "
    "seed, the mean over seeds.",
    "looks": "First seed: tokens of the last block as colours (the first three principal "
    "components, rotated to agree with the base with no head), and what each token adds to the "
    "logit of the {sample}'s class (red) or takes from it (blue).",
}  # fmt: skip
"""What the pictures show, by name (`Words.say`)."""
FLIPPED = "flipped-"
"""How the names of the galleries of flipped images begin."""
FLIPPED_CAPTION = "{Samples} whose class is found under every seed with HEAD alone, or without it."
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """A picture of the section.

    Attributes:
        name: its name.
        caption: what it shows.
        link: its path relative to the report, for Markdown.
        data: the picture itself as a data URI, for HTML. Browsers run no script of a picture that
            is shown so, whoever wrote the file.
    """

    name: str
    caption: str
    link: str
    data: Markup


@dataclass(frozen=True)
class ExplainSection:
    """The texts of the section.

    Attributes:
        summary: what was compared, and what cannot be said.
        sentences: the findings.
    """

    summary: str
    sentences: list[str]


def explain_section(run: Run) -> ExplainSection | None:
    """The section; None if `explain` has not been run."""
    table = read_findings(run)
    if table.empty:
        return None
    sentences = [text for text in table["verdict"] if isinstance(text, str) and text]
    return ExplainSection(summary(table), sentences)


def explain_pictures(run: Run, folder: Path) -> Iterator[Picture]:
    """The pictures in RUN/explain, in the order of the page.

    Args:
        run: the run.
        folder: that of the report.
    """
    found = {path.stem: path for path in sorted((run.path / FOLDER).glob("*.*"))
             if path.suffix in KINDS}  # fmt: skip
    order = ["change_blocks", *CAPTIONS, *(name for name in found if name.startswith(FLIPPED))]
    for name in dict.fromkeys(order):
        path = found.get(name)
        if path is None:
            continue
        caption = run.words.say(CAPTIONS.get(name, FLIPPED_CAPTION))
        if name not in CAPTIONS:
            caption = caption.replace("HEAD", name.removeprefix(FLIPPED))
        content = base64.b64encode(path.read_bytes()).decode("ascii")
        link = quote(Path(os.path.relpath(path, folder)).as_posix())
        # Markup: base64 needs no escape, and to look for passwords in it takes minutes.
        data = Markup(f"data:{KINDS[path.suffix]};base64,{content}")
        yield Picture(name, caption, link, data)

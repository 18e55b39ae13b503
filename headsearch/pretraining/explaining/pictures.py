"""Draws what `explain` measured into RUN/explain; pictures make no claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from headsearch.config.domains import Words
from headsearch.data import Data
from headsearch.data.audio.waveform import log_mels
from headsearch.evaluation.interpretation.decisions import flipped
from headsearch.evaluation.interpretation.evidence import (
    aligned,
    as_colours,
    principal_maps,
    token_shares,
)
from headsearch.pretraining.explaining.compare import Compared, same_seed_cka
from headsearch.pretraining.explaining.parts import gallery
from headsearch.report.findings import MEASURES, UNTRAINED
from headsearch.report.plots.explained import (
    ImageRow,
    curves,
    dots,
    heatmaps,
    image_rows,
    styles_of,
)
from headsearch.report.plots.style import plotting, save
from headsearch.runs.tables import NO_HEAD
from headsearch.text import for_file_name

FLIPPED = 8
"""Images that flipped, of each direction, that are shown."""


@dataclass(frozen=True)
class Shown:
    """What the pictures of single samples are made of.

    Attributes:
        data: bank and queries.
        grid: rows and columns of the base's last map.
        words: what the samples are called.
    """

    data: Data
    grid: tuple[int, int]
    words: Words

    def samples(self, indices: Tensor) -> list[npt.NDArray[np.float64]]:
        """Queries as pictures (H, W, 3) in [0, 1]: clips as grey log-mel maps, low bands below."""
        kept = self.data.queries.batch(indices)
        if self.data.queries.shape.rate:
            kept = torch.cat(list(log_mels([kept], self.data.queries.shape)))
        samples_BCHW = kept.double().div(255)
        if samples_BCHW.shape[1] == 1:
            samples_BCHW = samples_BCHW.flip(2).expand(-1, 3, -1, -1)
        return list(samples_BCHW.permute(0, 2, 3, 1).numpy())


def draw(
    folder: Path, table: pd.DataFrame, of: Compared, shown: Shown, only: Sequence[str]
) -> None:
    """Draws all pictures of the analyses `only`: charts as SVG, images as PNG.

    Args:
        folder: where to write.
        table: the measurements.
        of: the bases.
        shown: the samples.
        only: names of analyses.
    """
    with plotting():
        for name, figure in _figures(table, of, shown, only):
            save(figure, folder / name)


def _figures(
    table: pd.DataFrame, of: Compared, shown: Shown, only: Sequence[str]
) -> Iterator[tuple[str, Figure]]:
    models = list(dict.fromkeys(subject.name for subject in of.comparison.subjects))
    styles = styles_of(models, NO_HEAD, of.comparison.heads)
    for name, measure in MEASURES.items():
        rows = table[table["analysis"] == name]
        if len(rows) and rows["value"].notna().any():
            drawn = (curves if measure.by == "block" else dots)(rows, styles, shown.words)
            yield f"{name}.svg", drawn
    if "change" in only:
        names = [*([of.comparison.own] if of.comparison.own else []), *of.comparison.heads]
        yield "change_blocks.svg", heatmaps({n: same_seed_cka(of, n).numpy() for n in names})
    if shown.data.queries.shape.vocabulary:
        return  # a text is no picture, and colours of tokens say nothing without their words
    if "decisions" in only:
        for head in of.comparison.heads:
            rows_of_images = list(_flips(of, shown, head))
            if rows_of_images:
                yield f"flipped-{for_file_name(head)}.png", image_rows(rows_of_images)
    if "looks" in only:
        yield "looks.png", image_rows(list(_looks(of, shown, models)))


def _flips(of: Compared, shown: Shown, head: str) -> Iterator[ImageRow]:
    """Images that the base is right about under every seed with the head alone, or without."""
    name = f"linear.{of.depth}"

    def right(model: str) -> Tensor:
        return torch.stack([of.right(of.subject(model, s), name) for s in of.comparison.seeds])

    won, lost = flipped(right(head), right(NO_HEAD))
    for title, found in ((f"right with {head} alone", won), ("right with no head alone", lost)):
        chosen = of.report[found[:FLIPPED]]
        if len(chosen):
            names = [of.classes[int(label)] for label in of.labels[chosen]]
            yield ImageRow(f"{title} ({len(found)})", shown.samples(chosen), names)


def _looks(of: Compared, shown: Shown, models: Sequence[str]) -> Iterator[ImageRow]:
    """The images, then of each base (first seed) its tokens as colours and their evidence.

    Colours are the first three principal components, rotated to agree with those of the base with
    no head. Evidence is what a token adds to the logit of the image's class, less the mean token.
    """
    seed = of.comparison.seeds[0]
    chosen = gallery(shown.data)
    labels = of.labels[chosen]
    names = [of.classes[int(label)] for label in labels]
    yield ImageRow(shown.words.sample, shown.samples(chosen), names)
    reference: Tensor | None = None
    for name in [NO_HEAD, *(model for model in models if model != NO_HEAD)]:
        found = of.cache.read(of.subject(name, seed), "looks")
        maps = principal_maps(found["tokens"])
        reference = maps if reference is None else reference
        colours = as_colours(aligned(maps, reference), shown.grid)
        yield ImageRow(f"{name}: tokens", list(colours.numpy()))
        if name == UNTRAINED:
            continue
        place = (found["classes"][None] == labels[:, None]).int().argmax(1)
        shares = token_shares(found["tokens"], found["matrix"], found["offset"], place)
        shares = (shares - shares.mean(dim=1, keepdim=True)).reshape(-1, *shown.grid)
        yield ImageRow(f"{name}: evidence", list(shares.numpy()), signed=True)

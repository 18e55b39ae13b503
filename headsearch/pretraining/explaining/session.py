"""`explain` from the first look at the solo runs to the files in RUN/explain.

The Python API and the command line both explain through `explained`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from torch import Tensor

from headsearch.config import normalization
from headsearch.config.domains import TEXT
from headsearch.data.factory import BUILT_IN
from headsearch.data.image.synthetic.scenes import CLASSES, generate_scenes
from headsearch.data.text.windows import windowed
from headsearch.errors import UserError, unknown
from headsearch.evaluation.features import PROBE_IMAGES
from headsearch.evaluation.proxies.labelled import LabelledImages
from headsearch.models.bases import Base
from headsearch.pretraining.explaining.bases import Bases
from headsearch.pretraining.explaining.cache import Cache
from headsearch.pretraining.explaining.compare import (
    ANALYSES,
    Compared,
    measurements,
)
from headsearch.pretraining.explaining.forward import Forward
from headsearch.pretraining.explaining.parts import PARTS, Measured
from headsearch.pretraining.explaining.pictures import Shown, draw
from headsearch.pretraining.explaining.progress import progress_on
from headsearch.pretraining.explaining.subjects import Comparison, Subject, comparison
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.report.findings import FOLDER, MEASURES, UNTRAINED, findings_table, summary
from headsearch.report.statistics.findings import MEASURED, differences
from headsearch.runs.console import loading_shown, print_notes
from headsearch.runs.directory import hold
from headsearch.runs.run import Run
from headsearch.runs.tables import NO_HEAD, write_table
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs
from headsearch.training.setup import TrainingSetup

SCENES, SCENES_SEED = 256, 977
"""Scenes whose masks are looked at, and their seed, which is unlike any that a run would have."""


@dataclass(frozen=True)
class Explained:
    """What `explain` found.

    Attributes:
        folder: RUN/explain, with the tables and pictures.
        findings: findings.csv: a row for each head, measure and block, with its verdict.
        measurements: measurements.csv: every measure of every base, by seed and block.
        sentences: the findings in words; empty where nothing is beyond seeds and own head.
        summary: what was compared, and what cannot be said.
        left_out: the measures that do not apply, and why, one line each.
    """

    folder: Path
    findings: pd.DataFrame
    measurements: pd.DataFrame
    sentences: tuple[str, ...]
    summary: str
    left_out: tuple[str, ...]


def explained(
    run: Run,
    *,
    head: str | None = None,
    top: int = 3,
    only: Sequence[str] = (),
    device: str = "auto",
    inputs: InMemoryInputs = NO_INPUTS,
    console: Console | None = None,
) -> Explained:
    """Compares the bases of a search's solo runs, and writes what was found into RUN/explain.

    Args:
        run: a search with solo runs.
        head: the head in question; by default the best verified ones.
        top: how many of these.
        only: names of analyses; all by default.
        device: auto, cpu, cuda, ….
        inputs: the objects that the search was started with in Python.
        console: where to show progress; None shows none.

    Raises:
        UserError: there is nothing to compare, an analysis is unknown, or something cannot be read
            or written.
    """
    for name in only:
        if name not in ANALYSES:
            raise unknown("analysis", name, ANALYSES)
    chosen = comparison(run, head, top)
    if console is not None:
        print_notes(console, chosen.notes)
    with loading_shown(console) as loading:
        setup = prepare_pretraining(
            {"device": device}, run=run, head=NO_HEAD, inputs=inputs, loading=loading
        ).setup
    if setup.data.bank is None:
        raise UserError(f"{run.path} has no labels, but `explain` reads them")
    lock = hold(run.path)
    try:
        (run.path / FOLDER).mkdir(exist_ok=True)
        if setup.domain.name == TEXT:
            setup = replace(setup, data=windowed(setup.data))
        work = _Work(run, setup, chosen, [name for name in ANALYSES if name in only or not only])
        work.measure(console)
        return work.write()
    except OSError as error:
        raise UserError(f"{run.path / FOLDER}: cannot write: {error.strerror or error}") from None
    finally:
        lock.release()


class _Work:
    """The bases of a comparison, measured part by part.

    Args:
        run: the search.
        setup: its data, base and objective, on the device.
        chosen: the bases.
        only: the analyses.
    """

    def __init__(
        self, run: Run, setup: TrainingSetup, chosen: Comparison, only: Sequence[str]
    ) -> None:
        self._run, self._setup, self._chosen, self._only = run, setup, chosen, only
        self._bases = Bases(run, setup)
        self._cache = Cache(run.path / FOLDER / "cache")
        data = setup.data
        assert data.bank is not None
        assert data.bank.labels is not None
        assert data.queries.labels is not None
        self._labelled = LabelledImages(
            data.bank.labels, data.queries.labels, data.choose, data.report, len(data.bank.classes)
        )

        # Texts are cut to windows, whose maps are shorter than those that the base is fitted to.
        of_text = setup.domain.name == TEXT
        self._grid = (1, data.queries.shape.width) if of_text else setup.plan.grid
        built_in = setup.config.data == BUILT_IN and data.queries.classes == CLASSES
        self._scenes = (
            generate_scenes(SCENES, data.queries.image_size, SCENES_SEED) if built_in else None
        )

    def measure(self, console: Console | None) -> None:
        """Measures what no earlier call has, base by base."""
        waiting = self._waiting()
        total, words = sum(len(parts) for _, parts in waiting), self._setup.domain.words
        with progress_on(console, total, words) as progress:
            for subject, parts in waiting:
                base = self._bases.base(subject)
                for part in parts:
                    progress.begin(subject, part)
                    self._measure(subject, part, base, progress.images)
                progress.ended(subject, parts)

    def _waiting(self) -> list[tuple[Subject, list[str]]]:
        """The bases with the parts that are needed and not cached."""
        needed = {part for name in self._only for part in ANALYSES[name].parts}
        waiting = []
        for subject in self._chosen.subjects:
            parts = [
                part
                for part in PARTS
                if part in needed
                and (part != "head" or (subject.name in self._chosen.heads and subject.has_head))
                and not self._cache.holds(subject, part, self._made_from(subject, part))
            ]
            if parts:
                waiting.append((subject, parts))
        return waiting

    def _made_from(self, subject: Subject, part: str) -> str:
        """What a part of a base depends on, besides how it is measured."""
        data = self._setup.data
        assert data.bank is not None
        images = f"{len(data.queries)} {len(data.bank)} {data.queries.image_size}"
        return f"{self._bases.digest(subject, with_head=part == 'head')} {images}"

    def _measure(
        self, subject: Subject, part: str, base: Base, on_images: Callable[[int], object]
    ) -> None:
        setup = self._setup
        expected = normalization.parse(setup.config.normalization)
        forward = Forward(
            base, len(setup.plan.stages), setup.domain, expected, 2 * setup.batch, on_images
        )

        def before(other: str) -> Mapping[str, Tensor]:
            return self._cache.read(subject, other)

        of = Measured(
            forward,
            self._bases.head(subject) if part == "head" else None,
            setup.data,
            setup.domain.name,
            setup.plan.input_shape.sequence,
            self._grid,
            setup.plan.grid,
            self._labelled,
            self._scenes,
            before,
        )
        made_from = self._made_from(subject, part)
        self._cache.keep(subject, part, made_from, lambda: PARTS[part](of))

    def write(self) -> Explained:
        """Compares the bases, and writes tables and pictures."""
        data, chosen = self._setup.data, self._chosen
        assert data.queries.labels is not None
        compared = Compared(
            chosen,
            self._cache,
            len(self._setup.plan.stages),
            data.queries.labels,
            data.report,
            data.queries.classes,
            min(PROBE_IMAGES, len(data.queries)),
        )
        tables = [measurements(compared, ANALYSES[name]) for name in self._only]
        kept = [table for table in tables if len(table)]
        table = pd.concat(kept) if kept else pd.DataFrame(columns=list(MEASURED))
        trained = table[table["model"] != UNTRAINED]
        words = self._setup.domain.words
        compared_heads = differences(trained, NO_HEAD, chosen.own, chosen.heads)
        found = findings_table(compared_heads, chosen.own, words)
        folder = self._run.path / FOLDER
        for old in (*folder.glob("*.svg"), *folder.glob("*.png")):
            old.unlink()
        write_table(folder / "findings.csv", found)
        write_table(folder / "measurements.csv", table)
        draw(folder, table, compared, Shown(data, self._grid, words), self._only)
        sentences = tuple(text for text in found["verdict"] if text)
        asked = [name for each in self._only for name in ANALYSES[each].measures]
        left_out = tuple(
            f"{name} does not apply here: it needs {MEASURES[name].needs}"
            for name in asked
            if name not in set(table["analysis"])
        )
        return Explained(folder, found, table, sentences, summary(found), left_out)

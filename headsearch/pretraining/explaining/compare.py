"""From what was measured of each base to measurements that seeds and heads are compared by.

A base shares first weights and the order of images with the others of its seed, and is for that
reason alone more like them than like those of another seed. So what is compared with another
base's features, a head's tokens or another base's errors is compared across seeds: a base under
seed s with those of all other seeds. `change` of the base with no head is then just what two seeds
differ by. With one seed there is no other, and the same seed is used; nothing is said then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from headsearch.evaluation.interpretation.change import cka_by_block, cka_matrix, error_of_change
from headsearch.evaluation.interpretation.decisions import accuracy_by_class, error_consistency
from headsearch.evaluation.interpretation.toward_head import ridge_r2
from headsearch.evaluation.similarity import cka_of_grams
from headsearch.pretraining.explaining.cache import Cache
from headsearch.pretraining.explaining.subjects import Comparison, Subject
from headsearch.report.statistics.findings import MEASURED
from headsearch.runs.tables import NO_HEAD

Row = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """The bases of a comparison with what was measured of them.

    Attributes:
        comparison: the bases.
        cache: what was measured.
        depth: the number of blocks.
        labels: of the queries, (Q,) int64.
        report: indices of the reported queries.
        classes: the names of the classes.
        probe_images: the number of probe images.
    """

    comparison: Comparison
    cache: Cache
    depth: int
    labels: Tensor
    report: Tensor
    classes: tuple[str, ...]
    probe_images: int

    @property
    def blocks(self) -> range:
        """The blocks, the earliest first."""
        return range(1, self.depth + 1)

    def subject(self, name: str, seed: int) -> Subject:
        """The base of a name and seed."""
        return next(
            each for each in self.comparison.subjects if (each.name, each.seed) == (name, seed)
        )

    def others(self, seed: int) -> list[int]:
        """The seeds that a base of this one is compared with."""
        return [other for other in self.comparison.seeds if other != seed] or [seed]

    def grams(self, subject: Subject) -> list[Tensor]:
        """The Gram matrix (P, P) float64 of each block."""
        found = self.cache.read(subject, "blocks", *(f"gram.{block}" for block in self.blocks))
        return [found[f"gram.{block}"].double() for block in self.blocks]

    def right(self, subject: Subject, name: str, part: str = "blocks") -> Tensor:
        """Which reported queries a probe classifies rightly: bool."""
        predicted = self.cache.read(subject, part, name)[name]
        if part == "blocks":
            predicted = predicted[self.report]
        return predicted == self.labels[self.report]


def change(of: Compared) -> Iterator[Row]:
    """1 − debiased CKA of every block with that of a base with no head of another seed."""
    plain = {seed: of.grams(of.subject(NO_HEAD, seed)) for seed in of.comparison.seeds}
    for subject in of.comparison.subjects:
        grams = of.grams(subject)
        others = of.others(subject.seed)
        distances = torch.stack([1 - cka_by_block(grams, plain[seed]) for seed in others]).mean(0)
        trained = subject.role in ("head", "control") and len(of.comparison.seeds) > 1
        for index, block in enumerate(of.blocks):
            error = math.nan
            if trained:
                errors = [
                    error_of_change(grams[index], plain[subject.seed][index], plain[seed][index])
                    for seed in others
                ]
                error = sum(errors) / len(errors)
            yield _row(subject, block, float(distances[index]), error=error)


def toward_cka(of: Compared) -> Iterator[Row]:
    """Debiased CKA of every block with the tokens of a head trained under another seed."""
    for target in _targets(of):
        tokens = {
            seed: of.cache.read(of.subject(target, seed), "head", "gram")["gram"].double()
            for seed in of.comparison.seeds
        }
        for subject in of.comparison.subjects:
            for block, gram in zip(of.blocks, of.grams(subject), strict=True):
                values = [float(cka_of_grams(gram, tokens[s])) for s in of.others(subject.seed)]
                yield _row(subject, block, sum(values) / len(values), target=target)


def toward_r2(of: Compared) -> Iterator[Row]:
    """R² of a head's tokens, of another seed, from the tokens of every block at the same places."""
    for target in _targets(of):
        tokens = {
            seed: of.cache.read(of.subject(target, seed), "head", "rows")["rows"]
            for seed in of.comparison.seeds
        }
        for subject in of.comparison.subjects:
            for block in of.blocks:
                rows = of.cache.read(subject, "blocks", f"rows.{block}")[f"rows.{block}"]
                per_image = len(rows) // of.probe_images
                fitted = of.probe_images // 2 * per_image
                values = [ridge_r2(rows, tokens[s], fitted) for s in of.others(subject.seed)]
                yield _row(subject, block, sum(values) / len(values), target=target)


def attention(of: Compared) -> Iterator[Row]:
    """The mean attention distance of every block; none for a base without such attention."""
    yield from _of_reach(of, "attention")


def field(of: Compared) -> Iterator[Row]:
    """The radius of the effective receptive field of every block."""
    yield from _of_reach(of, "field")


def _of_reach(of: Compared, name: str) -> Iterator[Row]:
    for subject in of.comparison.subjects:
        values = of.cache.read(subject, "reach", name)[name].tolist()
        for block, value in enumerate(values, start=1):
            yield _row(subject, block, value)


def frequency(of: Compared) -> Iterator[Row]:
    """The log amplitude of the highest frequency of every block, less that of the mean."""
    for subject in of.comparison.subjects:
        names = [f"frequency.{block}" for block in of.blocks]
        found = of.cache.read(subject, "blocks", *names)
        for block, name in zip(of.blocks, names, strict=True):
            yield _row(subject, block, float(found[name][-1]))


def knn(of: Compared) -> Iterator[Row]:
    """The accuracy of k-NN on every block, on the reported queries."""
    yield from _of_probe(of, "knn")


def linear(of: Compared) -> Iterator[Row]:
    """The accuracy of a linear probe on every block, on the reported queries."""
    yield from _of_probe(of, "linear")


def _of_probe(of: Compared, name: str) -> Iterator[Row]:
    for subject in of.comparison.subjects:
        for block in of.blocks:
            right = of.right(subject, f"{name}.{block}")
            yield _row(subject, block, float(right.double().mean()))


def cues(of: Compared) -> Iterator[Row]:
    """The accuracy on changed images, less that on the images as they are."""
    for subject in of.comparison.subjects:
        plain = float(of.right(subject, f"linear.{of.depth}").double().mean())
        for name in of.cache.read(subject, "cues"):
            changed = float(of.right(subject, name, "cues").double().mean())
            yield _row(subject, name, changed - plain)


def classes(of: Compared) -> Iterator[Row]:
    """The accuracy of the last block's linear probe on each class."""
    for subject in of.comparison.subjects:
        right = of.right(subject, f"linear.{of.depth}")
        shares = accuracy_by_class(right, of.labels[of.report], len(of.classes))
        for name, share in zip(of.classes, shares.tolist(), strict=True):
            yield _row(subject, name, share)


def consistency(of: Compared) -> Iterator[Row]:
    """κ of the errors with those of a base with no head of another seed."""
    name = f"linear.{of.depth}"
    plain = {seed: of.right(of.subject(NO_HEAD, seed), name) for seed in of.comparison.seeds}
    for subject in of.comparison.subjects:
        right = of.right(subject, name)
        values = [error_consistency(right, plain[seed]) for seed in of.others(subject.seed)]
        yield _row(subject, "errors", sum(values) / len(values))


def evidence(of: Compared) -> Iterator[Row]:
    """The share of the evidence for a scene's class on its object; none without masks."""
    for subject in of.comparison.subjects:
        for value in of.cache.read(subject, "looks", "evidence")["evidence"].tolist():
            yield _row(subject, "object", value)


@dataclass(frozen=True)
class Analysis:
    """An analysis that `--only` names.

    Attributes:
        name: the name.
        measures: from the bases to rows of measurements, by the measure's name; in the order of the
            page.
        parts: what they need of each base; `head` is measured of the heads in question alone.
    """

    name: str
    measures: Mapping[str, Callable[[Compared], Iterator[Row]]]
    parts: Sequence[str]


ANALYSES: Mapping[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        Analysis("change", {"change": change}, ("blocks",)),
        Analysis("toward", {"toward_cka": toward_cka, "toward_r2": toward_r2}, ("blocks", "head")),
        Analysis("reach", {"attention": attention, "field": field}, ("reach",)),
        Analysis("frequency", {"frequency": frequency}, ("blocks",)),
        Analysis("probes", {"knn": knn, "linear": linear}, ("blocks",)),
        Analysis("cues", {"cues": cues}, ("blocks", "cues")),
        Analysis("decisions", {"classes": classes, "consistency": consistency}, ("blocks",)),
        Analysis("looks", {"evidence": evidence}, ("blocks", "looks")),
    )
}
"""The analyses by name, in the order of the page."""


def measurements(of: Compared, analysis: Analysis) -> pd.DataFrame:
    """The rows of measurements.csv of an analysis."""
    rows = [
        {"analysis": name, **row} for name, measure in analysis.measures.items()
        for row in measure(of)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(MEASURED))


def same_seed_cka(of: Compared, name: str) -> Tensor:
    """CKA of every block of a base with every block of that with no head, the mean over seeds."""
    pairs = [(of.subject(name, s), of.subject(NO_HEAD, s)) for s in of.comparison.seeds]
    matrices = [cka_matrix(of.grams(one), of.grams(other)) for one, other in pairs]
    return torch.stack(matrices).mean(0)


def _targets(of: Compared) -> list[str]:
    """The heads in question whose tokens were kept under every seed."""
    return [
        name
        for name in of.comparison.heads
        if all(of.subject(name, seed).has_head for seed in of.comparison.seeds)
    ]


def _row(
    subject: Subject, block: int | str, value: float, *, target: str = "", error: float = math.nan
) -> Row:
    return {
        "target": target,
        "model": subject.name,
        "seed": subject.seed,
        "block": str(block),
        "value": value,
        "error": error,
    }

"""The rule of `explain` on made-up bases: what is planted is found, and what is not, is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from headsearch.config.domains import IMAGE, WORDS
from headsearch.evaluation.similarity import gram
from headsearch.pretraining.explaining.compare import ANALYSES, Compared, measurements
from headsearch.pretraining.explaining.subjects import Comparison, Subject
from headsearch.report.findings import FINDING_COLUMNS, findings_table, summary
from headsearch.report.statistics.findings import Difference, differences

HEAD, OWN = "mixer-d2", "own-d2"
DEPTH, IMAGES, WIDTH, QUERIES = 5, 48, 12, 200
NAMES = ["change", "frequency", "probes", "toward", "decisions"]


class Made:
    """Made-up tensors in place of what was measured, by base and part."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[str, int, str], dict[str, Tensor]] = {}

    def read(self, subject: Subject, part: str, *names: str) -> dict[str, Tensor]:
        found = self.tensors[subject.name, subject.seed, part]
        return {name: found[name] for name in names or found}


def random(*shape: int, of: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=of, dtype=torch.float64)


def base(
    of: torch.Generator, common: list[Tensor], labels: Tensor, *, differs_from: int = 99
) -> dict[str, Tensor]:
    """What is measured of a base: what all bases share, and what its seed makes of it."""
    found: dict[str, Tensor] = {}
    ability = 0.5 + 0.02 * float(random(1, of=of))
    for block in range(1, DEPTH + 1):
        shared = common[block]
        if block >= differs_from:
            shared = common[0] + 0.3 * shared
        x = shared + 0.6 * random(IMAGES, WIDTH, of=of)
        found[f"gram.{block}"] = gram(x).float()
        found[f"rows.{block}"] = x.float()
        frequency = -3 + 0.1 * block + 0.1 * random(3, of=of)
        found[f"frequency.{block}"] = frequency + (0.8 if block >= differs_from else 0.0)
        for probe in ("knn", "linear"):
            right = torch.rand(QUERIES, generator=of) < ability
            found[f"{probe}.{block}"] = torch.where(right, labels, (labels + 1) % 4).int()
    return found


def compared(
    seeds: int, made_for: int, *, head_differs_from: int = 99, own_differs_from: int = 99,
    own: bool = True, tmp: Path | None = None,
) -> Compared:  # fmt: skip
    """Bases with no head, `own` and a head; by default the three differ by chance alone."""
    of = torch.Generator().manual_seed(made_for)
    common = [random(IMAGES, WIDTH, of=of) for _ in range(DEPTH + 1)]
    labels = torch.arange(QUERIES) % 4
    made, subjects = Made(), []
    starts = {"none": 99, OWN: own_differs_from, HEAD: head_differs_from}
    for seed in range(seeds):
        for name, start in starts.items():
            if name == OWN and not own:
                continue
            role: Any = {"none": "none", OWN: "control"}.get(name, "head")
            folder = Path("nowhere")
            subjects.append(Kept(name, role, seed, folder))
            made.tensors[name, seed, "blocks"] = base(of, common, labels, differs_from=start)
        tokens = common[0] @ random(WIDTH, WIDTH, of=of)
        made.tensors[HEAD, seed, "head"] = {"gram": gram(tokens), "rows": tokens.float()}
    chosen = Comparison(tuple(subjects), (HEAD,), OWN if own else None, tuple(range(seeds)), ())
    cache: Any = made
    return Compared(
        chosen, cache, DEPTH, labels, torch.arange(QUERIES), ("a", "b", "c", "d"), IMAGES
    )


class Kept(Subject):
    """A made-up base whose head was kept."""

    has_head = True  # type: ignore[assignment]


def found(of: Compared, names: list[str] = NAMES) -> list[Difference]:
    table = pd.concat([measurements(of, ANALYSES[name]) for name in names])
    return differences(table, "none", of.comparison.own, of.comparison.heads)


def test_of_20_pairs_without_a_difference_at_most_one_gives_a_sentence() -> None:
    said = [
        sum(bool(each.kind) for each in found(compared(2 + pair % 2, pair))) for pair in range(20)
    ]
    assert sum(count > 0 for count in said) <= 1, said


def test_a_difference_within_the_error_over_images_is_no_finding() -> None:
    table = measurements(compared(3, 1, head_differs_from=3), ANALYSES["frequency"])
    certain = differences(table, "none", OWN, (HEAD,))
    assert [each.kind for each in certain][2:] == ["specific"] * 3
    table.loc[table["model"] == HEAD, "error"] = 5.0
    rows = differences(table, "none", OWN, (HEAD,))
    assert {each.floor for each in rows} == {5.0}
    assert not any(each.kind for each in rows)


def test_bases_that_are_equal_differ_in_nothing() -> None:
    of = compared(2, 0)
    made: Any = of.cache
    for seed in (0, 1):
        for name in (OWN, HEAD):
            made.tensors[name, seed, "blocks"] = made.tensors["none", seed, "blocks"]
    rows = found(of)
    assert not any(each.kind for each in rows)
    assert all(abs(each.value) < 1e-12 for each in rows)


def test_what_a_head_changes_from_block_3_on_is_found_there_and_not_before() -> None:
    rows = found(compared(3, 1, head_differs_from=3))
    for analysis in ("change", "frequency", "toward_cka", "toward_r2"):
        kinds = {each.block: each.kind for each in rows if each.analysis == analysis}
        assert [kinds[b] for b in "12"] == ["", ""], analysis
        shown = "3" if analysis == "toward_r2" else "345"  # R² of 48 images is noisy
        assert all(kinds[b] == "specific" for b in shown), analysis
    first = next(each for each in rows if (each.analysis, each.block) == ("frequency", "3"))
    assert first.low > 0
    assert first.low < 0.8 < first.high
    assert abs(first.own) < first.floor
    table = findings_table(rows, OWN, WORDS[IMAGE])
    assert tuple(table.columns) == FINDING_COLUMNS
    verdicts = table.loc[table["analysis"] == "frequency", "verdict"].tolist()
    assert verdicts[:2] == ["", ""]
    assert verdicts[2].startswith(f"With {HEAD}, block 3 keeps more high frequencies (+0.")
    assert "finding" in summary(table)


def test_what_the_own_head_does_too_is_said_of_any_head() -> None:
    rows = found(compared(3, 1, head_differs_from=3, own_differs_from=3))
    kinds = {each.block: each.kind for each in rows if each.analysis == "frequency"}
    assert [kinds[b] for b in "12345"] == ["", "", "any", "any", "any"]
    table = findings_table(rows, OWN, WORDS[IMAGE])
    said = table.loc[table["analysis"] == "frequency", "verdict"].iloc[3]
    assert said.startswith("Having any head does this: with mixer-d2, block 4")
    told = summary(table[table["analysis"] == "frequency"])
    assert "No finding beyond both" in told
    assert "made by the own head as well: 3 differences." in told


@pytest.mark.parametrize(
    ("seeds", "own", "words"),
    [(1, True, "With one seed nothing can be said"), (3, False, "Without runs with the base's")],
)
def test_without_a_second_seed_or_the_own_head_nothing_is_said(
    seeds: int, own: bool, words: str
) -> None:
    rows = found(compared(seeds, 1, head_differs_from=3, own=own))
    assert rows
    assert not any(each.kind for each in rows)
    assert words in summary(findings_table(rows, OWN, WORDS[IMAGE]))

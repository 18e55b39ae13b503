"""What `explain` found, in words: its measures, a sentence for each finding, and the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from headsearch.config.domains import Words
from headsearch.report.statistics.findings import Difference
from headsearch.runs.run import Run
from headsearch.runs.tables import NO_HEAD, read_table
from headsearch.text import counted, listing

FOLDER = "explain"
"""The folder of what `explain` writes, in the run directory."""
UNTRAINED = "untrained"
"""The name of the base before training."""
FINDING_COLUMNS = (
    "analysis", "model", "reference", "block", "value", "low", "high", "floor", "own", "verdict",
)  # fmt: skip
"""The columns of findings.csv."""
ANY_HEAD = "Having any head does this"
"""How a sentence begins on a difference that the own head makes as well."""


@dataclass(frozen=True)
class Measure:
    """What one measure of `explain` is, and how its differences are said (`Words.say`).

    Attributes:
        name: in findings.csv.
        title: of its picture's vertical axis.
        question: what it answers, for captions.
        more, less: what a base does that has more or less of it than the base with no head.
        scale: factor of values in texts and pictures.
        unit: behind values in texts.
        by: what `block` names: "block", "condition", "class", or "base" if there is one figure.
        needs: what a base or the data must have, else the measure does not apply.
    """

    name: str
    title: str
    question: str
    more: str
    less: str
    scale: float = 1.0
    unit: str = ""
    by: str = "block"
    needs: str = "what was measured of the bases"


MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            "change",
            "Change (1 − CKA)",
            "Where the base changed: 1 − debiased CKA of each block with that of a base with no "
            "head of another seed, so the black curve is what two seeds differ by.",
            "represents {samples} differently than the base with no head",
            "represents {samples} more alike another seed's base with no head than that base "
            "itself",
        ),
        Measure(
            "toward_cka",
            "CKA with head",
            "Toward the head: debiased CKA of each block with the tokens that a head trained "
            "under another seed gives.",
            "has come closer (CKA) to the tokens of a trained head",
            "has moved away (CKA) from the tokens of a trained head",
            needs="the trained heads",
        ),
        Measure(
            "toward_r2",
            "R² of head's tokens",
            "Toward the head: how much of the tokens of a head of another seed a linear map of "
            "each block predicts, on {samples} it was not fitted to.",
            "predicts the tokens of a trained head better",
            "predicts the tokens of a trained head worse",
            needs="the trained heads",
        ),
        Measure(
            "attention",
            "Attention distance",
            "Reach: the mean distance between a patch and those it attends to, in patches.",
            "attends farther",
            "attends nearer",
            unit=" patches",
            needs="a base with plain attention in every block",
        ),
        Measure(
            "field",
            "Receptive field ({points})",
            "Reach: the root mean square radius of the effective receptive field of the centre "
            "token, in {points}.",
            "draws on a larger part of the {sample}",
            "draws on a smaller part of the {sample}",
            unit=" {points}",
            needs="inputs that have gradients, which tokens of texts have not",
        ),
        Measure(
            "frequency",
            "Δ log amplitude",
            "Frequency: log amplitude of the token map's highest spatial frequency, less that of "
            "its mean.",
            "keeps more high frequencies",
            "keeps fewer high frequencies",
        ),
        Measure(
            "knn",
            "k-NN accuracy (%)",
            "Where labels can be read: weighted k-NN on each block's mean token.",
            "lets k-NN read the labels better",
            "lets k-NN read the labels worse",
            scale=100,
            unit=" points",
        ),
        Measure(
            "linear",
            "Linear probe (%)",
            "Where labels can be read: a linear probe on each block's mean token.",
            "lets a linear probe read the labels better",
            "lets a linear probe read the labels worse",
            scale=100,
            unit=" points",
        ),
        Measure(
            "cues",
            "Change of accuracy (points)",
            "Cues: accuracy of the linear probe on changed {samples}, less that on the {samples} "
            "themselves.",
            "loses less accuracy",
            "loses more accuracy",
            scale=100,
            unit=" points",
            by="condition",
        ),
        Measure(
            "classes",
            "Accuracy (%)",
            "Decisions: accuracy of the linear probe on each class.",
            "classifies more {samples} of the class rightly",
            "classifies fewer {samples} of the class rightly",
            scale=100,
            unit=" points",
            by="class",
        ),
        Measure(
            "consistency",
            "Error consistency κ",
            "Decisions: Cohen's κ of the errors with those of a base with no head of another seed.",
            "errs on the same {samples} as a base with no head",
            "errs on other {samples} than a base with no head",
            by="base",
        ),
        Measure(
            "evidence",
            "Evidence on object (%)",
            "What it looks at: the share of the evidence for a scene's class that lies on its "
            "labelled object.",
            "finds more of its evidence on the object",
            "finds less of its evidence on the object",
            scale=100,
            unit=" points",
            by="base",
            needs="the built-in scenes, whose masks are known",
        ),
    )
}
"""The measures by name, in the order of the page."""


def sentence(difference: Difference, own: str, words: Words) -> str:
    """A finding as a sentence; empty where the rule allows none.

    Args:
        difference: of a head from no head.
        own: the name of the base's own kind of head.
        words: those of the domain.
    """
    if not difference.kind:
        return ""
    measure = MEASURES[difference.analysis]
    what = words.say(measure.more if difference.value > 0 else measure.less)
    figures = (
        f"{_signed(difference.value, measure)}{words.say(measure.unit)} over no head, 95% interval "
        f"{_signed(difference.low, measure)} to {_signed(difference.high, measure)}; "
        f"{own} {_signed(difference.own, measure)}; floor of the seeds "
        f"{difference.floor * measure.scale:.3g}"
    )
    where = _where(difference, measure, words)
    if difference.kind == "any":
        return f"{ANY_HEAD}: with {difference.model}, {where} {what} ({figures})."
    return f"With {difference.model}, {where} {what} ({figures})."


def _where(difference: Difference, measure: Measure, words: Words) -> str:
    if measure.by == "block":
        return f"block {difference.block}"
    if measure.by == "condition":
        return f"the base on {difference.block} {words.samples}"
    return f"the base ({difference.block})" if measure.by == "class" else "the base"


def _signed(value: float, measure: Measure) -> str:
    return f"{value * measure.scale:+.3g}"


def findings_table(
    differences: Sequence[Difference], own: str | None, words: Words
) -> pd.DataFrame:
    """findings.csv: a row for each difference, in the order of the page."""
    rows = [
        {
            "analysis": each.analysis,
            "model": each.model,
            "reference": NO_HEAD,
            "block": each.block,
            "value": each.value,
            "low": each.low,
            "high": each.high,
            "floor": each.floor,
            "own": each.own,
            "verdict": sentence(each, own or "", words),
        }
        for each in differences
    ]
    return pd.DataFrame(rows, columns=list(FINDING_COLUMNS))


def read_findings(run: Run) -> pd.DataFrame:
    """findings.csv of a run; empty if `explain` has not been run."""
    return read_table(run.path / FOLDER / "findings.csv", FINDING_COLUMNS)


def summary(table: pd.DataFrame) -> str:
    """What was compared, how many findings there are, and why there may be none."""
    heads = listing([*dict.fromkeys(map(str, table["model"]))])
    compared = counted(len(table), "comparison")
    if table["low"].isna().all():
        return (
            f"{heads} beside no head: {compared}. With one seed nothing can be said of them: a "
            "second seed is needed to tell a difference from what seeds differ by."
        )
    if table["own"].isna().all():
        return (
            f"{heads} beside no head: {compared}. Without runs with the base's own kind of head, "
            "no difference can be ascribed to the kind of head."
        )
    said = [verdict for verdict in table["verdict"] if isinstance(verdict, str) and verdict]
    shared = sum(verdict.startswith(ANY_HEAD) for verdict in said)
    found = len(said) - shared
    findings = "No finding" if not found else counted(found, "finding")
    own_too = (
        f" Beyond the floor, but made by the own head as well: {counted(shared, 'difference')}."
        if shared
        else ""
    )
    return (
        f"{heads} beside no head and the base's own kind of head: {compared}. {findings} beyond "
        "both the seeds' floor and the own head's effect, by intervals that hold for all heads and "
        f"blocks of a measure at once.{own_too}"
    )

"""Words: numbers and articles agree with what follows them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import headsearch
from headsearch.text import counted, with_article


def test_a_number_agrees_with_its_noun() -> None:
    assert [counted(n, "head") for n in (0, 1, 2)] == ["0 heads", "1 head", "2 heads"]
    assert counted(2, "class", "classes") == "2 classes"


@pytest.mark.parametrize(
    ("words", "article"),
    [
        ("4×4 map", "a"), ("8×8 map", "an"), ("11×11 map", "an"), ("14×14 map", "a"),
        ("16×16 map", "a"), ("18×18 map", "an"), ("110×1 map", "a"), ("80×80 map", "an"),
        ("11000 images", "an"), ("1 map", "a"), ("Image", "an"), ("Tensor", "a"), ("int", "an"),
    ],
)  # fmt: skip
def test_an_article_agrees_with_what_is_read_out(words: str, article: str) -> None:
    assert with_article(words) == f"{article} {words}"


ALWAYS_MORE = {
    "advice.py", "caveats.py", "discrepancy_accuracy.py", "expected_gain.py", "forecast_view.py",
    "head_selection.py", "incidents.py", "pruning_timeline.py", "published_gains.py", "samplers.py",
}  # fmt: skip
"""Files that write such a text only if the number is 2 or more."""
NOUNS = "threads|epochs|heads|rungs|candidates|cohorts|tasks|files|solo runs"
MAY_BE_ONE = re.compile(rf"^ ({NOUNS})\b")


def test_no_message_writes_a_plural_behind_a_number_that_may_be_one() -> None:
    """Such words come from `counted`. Numbers are the values in a text, `{…}` in an f-string."""
    found = []
    for path in Path(headsearch.__file__).parent.rglob("*.py"):
        for text in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(text, ast.JoinedStr):
                found += [
                    path.name
                    for value, after in zip(text.values, text.values[1:], strict=False)
                    if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)
                    if MAY_BE_ONE.match(str(after.value))
                ]
    assert {*found} == ALWAYS_MORE

"""What the page carries in itself: the charts' library, and data for its scripts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from importlib import resources
from pathlib import Path

import yaml

from headsearch.report.assets import PLOTLY, json_data, script
from headsearch.report.charts import DRAWN, head_yaml, page_data
from helpers import synthetic_runs

ASSETS = resources.files("headsearch.report") / "assets"
HOSTILE = "</script><!--<script>alert(1)</script>&\u2028"
VERSION = "4.1.1"
SHA256 = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"


def test_the_charts_library_is_the_published_one_with_its_licence() -> None:
    """CONTRIBUTING.md, "Charts", says how to change it."""
    assert hashlib.sha256((ASSETS / PLOTLY).read_bytes()).hexdigest() == SHA256
    assert f"v{VERSION}" in script(PLOTLY)[:200]
    assert "MIT License" in (ASSETS / "plotly-basic.LICENSE.txt").read_text()


def test_no_text_in_the_data_can_end_its_script() -> None:
    text = json_data({"name": HOSTILE, "figures": (1.25, math.nan, math.inf, 3), "none": None})
    assert not re.search(r"[<>&\u2028]", text)
    read = json.loads(text)
    assert read["figures"] == [1.25, None, None, 3]
    assert read["name"].startswith("</script><!--<script>alert(1)</script>&")
    assert "secret" not in json_data(["postgresql://me:secret@host/db"])


def test_a_head_has_its_yaml_or_the_command_that_writes_it() -> None:
    head = yaml.safe_load(head_yaml("convnext-d3-k7-noshortcut", 2))
    assert head["families"]["convnext"]["kernel"] == 7
    assert head_yaml("mine-d3", 2).startswith("# headsearch export RUN --rank 2\n")


def test_charts_draw_the_first_heads_of_a_large_search(tmp_path: Path) -> None:
    heads = {f"mixer-d1-r{k}": ("mixer", 0.1 + k / 1000, 0.36) for k in range(2, DRAWN + 22)}
    run = synthetic_runs.run(tmp_path, heads=heads)
    data = page_data(run, ["discrepancy_accuracy", "scores_over_rungs", "pruning_timeline"])
    assert len(data["heads"]) == DRAWN + 20
    assert [head["winner"] for head in data["heads"]] == [True] + [False] * (DRAWN + 19)
    main, curves, timeline = data["charts"].values()
    assert sorted(point["head"] for point in main["points"]) == list(range(DRAWN))
    assert {len(panel["curves"]) for panel in curves["panels"]} == {DRAWN}
    assert len(timeline["ends"]) == DRAWN

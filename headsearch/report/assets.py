"""What a page carries in itself so that it opens offline: scripts, and data for them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

from headsearch.report.templates import harmless

PLOTLY = "plotly-basic.min.js"
"""plotly.js, its basic bundle: scatter, bar and pie charts. See "Charts" in CONTRIBUTING.md.

The plotly of Python would bring 4.6 MB into each page.
"""


def script(name: str) -> Markup:
    """A script of the folder `assets`, for a `<script>` element."""
    return Markup(resources.files("headsearch.report").joinpath("assets", name).read_text("utf-8"))


def json_data(value: object) -> Markup:
    """Data for a `<script type="application/json">` element, which no text in it can end.

    NaN and infinity become null; texts are without unprintable characters and passwords.
    """
    text = json.dumps(_plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _plain(value: object) -> Any:
    """A value of mappings, sequences, texts and numbers as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, str):
        return str(harmless(value))
    if isinstance(value, Sequence):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value

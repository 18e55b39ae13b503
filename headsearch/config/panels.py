"""The panels of `--help`, and the function that defines a setting."""

from __future__ import annotations

from typing import Any

from pydantic import Field

WHAT = "What to search"
TRAIN = "Training"
SEARCH = "Search"
SCORES = "Scores"
DENSE = "Dense tasks"
AUDIO = "Clips of sound"
TEXT = "Texts"
MACHINE = "Machine and output"


def setting(default: Any, help: str, panel: str, **bounds: Any) -> Any:
    """A pydantic field with its help text and its panel in `--help`."""
    return Field(default, description=help, json_schema_extra={"panel": panel}, **bounds)

"""The settings of a run as the report lists them, and the command that repeats the run."""

from __future__ import annotations

import shlex
from typing import Any

from headsearch.config.presets import PRESETS
from headsearch.config.settings import RunConfig
from headsearch.runs.run import Run
from headsearch.runs.storage_url import masked, without_passwords
from headsearch.text import printable


def command(config: dict[str, Any]) -> str:
    """The command that repeats the run, without settings that budget or defaults already give."""
    preset = PRESETS.get(str(config.get("budget")), {})
    words = ["headsearch", "run"]
    for name, field in RunConfig.model_fields.items():
        value = config.get(name)
        never_implied = {"base", "space", "budget"}
        if "first_rung" not in config:  # an older run: given rungs are evenly spaced, as its were
            never_implied.add("rungs")
        implied = name not in never_implied and value == preset.get(name, field.default)
        if name != "out" and value is not None and not implied:
            words += ["--" + name.replace("_", "-"), shlex.quote(_text(name, value))]
    return printable(" ".join(words))  # escaped: it must stay one line


def settings_list(run: Run) -> list[tuple[str, str]]:
    """The settings as names and values; the space and the fingerprint stay in config.yaml."""
    return [
        (name, setting_text(name, value))
        for name, value in run.config.items()
        if name not in ("versions", "space_content", "data_fingerprint")
    ]


def setting_text(name: str, value: Any) -> str:
    """A value as text on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {setting_text(key, item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(name, item) for item in value)
    return "–" if value is None else _text(name, value)


def _text(name: str, value: Any) -> str:
    """A value as text, without passwords: config.yaml has none unless somebody wrote one there."""
    return masked(str(value)) if name == "storage" else without_passwords(str(value))

"""Checks that a run is resumed with the settings that it began with.

Settings are compared twice. `check_same_settings` compares what they stand for now with what
config.yaml says: a space, for example, whose file has changed. `check_as_recorded` compares what
config.yaml says with what was recorded beside the results, in case somebody has edited it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from headsearch.config.locations import absolute_locations, without_places
from headsearch.config.setting_groups import of_older_runs
from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.runs.directory import CONFIG, read_config, write_config
from headsearch.runs.run import SOLO_HEAD
from headsearch.runs.storage_url import without_passwords

MAY_DIFFER = (
    "out", "device", "threads", "precision", "cuda_graphs", "compile", "snapshot_every",
    "git_commit", "versions", "study_name", "max_bad_images", "processes", "log",
    "data_fingerprint", "download", "storage", "memory", "workers", "check_images",
)  # fmt: skip
"""Settings that may change when a run is resumed. Bitwise equal results need them unchanged too."""
_DEFAULTS = RunConfig().model_dump(mode="json")


def check_same_settings(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run directory began with, if these are the same.

    Raises:
        UserError: a setting that affects the results has changed since.
    """
    file, begun = path / CONFIG, read_config(path)
    if not {"study_name", SOLO_HEAD} & begun.keys():
        # It ended before its data were opened, so no result depends on its settings yet.
        write_config(path, settings)
        return dict(settings)
    # Through YAML, as the settings in the file were: tuples become lists, for example.
    now = yaml.safe_load(yaml.safe_dump(dict(settings)))
    then, now = without_places(with_later_settings(begun)), without_places(now)
    _refuse_changes(file, then, now)
    places = absolute_locations(settings)
    if any(begun.get(name) != place for name, place in places.items() if name in begun):
        begun |= places
        write_config(path, begun)  # later commands find the data and the weights there too
    return {**now, **begun}


def with_later_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, with the values that it had in effect for those that came later.

    Args:
        settings: the content of config.yaml.
    """
    return {**_DEFAULTS, **of_older_runs(settings.get("recipe")), **settings}


def settings_that_decide(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run records beside its results, to be compared when it is resumed.

    Args:
        settings: the content of config.yaml.
    """
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(settings)))
    return {k: v for k, v in without_places(plain).items() if k not in MAY_DIFFER}


def check_as_recorded(path: Path, recorded: object, settings: Mapping[str, Any]) -> None:
    """Checks that nobody has changed the settings of a run since its results were written.

    Args:
        path: the run directory.
        recorded: what `settings_that_decide` returned when the run began; anything else if that is
            unknown, as in runs of older versions.
        settings: the settings now, or some of them.

    Raises:
        UserError: a setting that affects the results has changed.
    """
    if not isinstance(recorded, Mapping):
        return
    now = settings_that_decide(settings)
    _refuse_changes(path / CONFIG, recorded, {k: v for k, v in now.items() if k in recorded})


def _refuse_changes(file: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UserError with all settings whose values differ, but for those that may."""
    changed = sorted(k for k in now if k not in MAY_DIFFER and then.get(k) != now[k])
    if changed:
        first, *others = (_change(name, then.get(name), now[name]) for name in changed)
        more = "".join(f"; {name}{values}" for name, values in others)
        raise UserError(
            f"{file}: {first[0]} has changed since the run began{first[1]}{more}: it cannot be "
            "resumed"
        )


def _change(name: str, before: object, after: object) -> tuple[str, str]:
    """The name of a setting, and how its value changed, if both values are short."""
    values = [without_passwords(str(value)) for value in (before, after)]
    change = f", from {values[0]} to {values[1]}" if len("".join(values)) < 80 else ""
    return name.replace("_content", ""), change

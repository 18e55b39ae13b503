"""Which settings of several runs differ, and which of them decide the results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from headsearch.config.locations import without_places
from headsearch.config.settings import RunConfig
from headsearch.report.comparison.runs import Compared
from headsearch.report.settings_list import setting_text
from headsearch.runs.same_settings import MAY_DIFFER, with_later_settings

PLACES_OF_IMAGES = ("data", "eval_data", "data_dir")
"""Locations whose content the fingerprint of the images stands for."""
ABOUT_THE_RUN = ("out", "storage")
"""Settings that say where a run lies."""
FIRST_NAMED = (
    "base", "data", "space", "objective", "coupling", "rank_by", "budget", "images", "epochs",
    "pruner", "seed",
)  # fmt: skip
"""The settings that are named first where they are the same in all runs."""
IMAGES, SPACE = "images (fingerprint)", "space (content)"
WEIGHTS = "first weights (content)"
"""The rows that stand for the images, the search space and the base's weights themselves."""
SHORT = 12
"""Characters of a hash that are shown."""


class Row(NamedTuple):
    """A setting that differs.

    Attributes:
        setting: its name.
        decides: whether it decides the results.
        values: as text, one for each run.
    """

    setting: str
    decides: bool
    values: tuple[str, ...]


def differing(runs: Sequence[Compared]) -> pd.DataFrame:
    """The settings that are not the same in all runs.

    A setting that an older run does not know has the value that was in effect then. Paths decide
    only where it is not known that the same lies there: a run records a fingerprint of its images,
    the content of its space and hashes of its weights.

    Returns:
        `setting, decides` (whether it decides the results; if not, it may change them by rounding)
        and a column of texts for each run, by its letter. What decides comes first.
    """
    rows = [row for row in _rows(runs) if len(set(row.values)) > 1]
    rows.sort(key=lambda row: not row.decides)
    return pd.DataFrame(
        [(row.setting, row.decides, *row.values) for row in rows],
        columns=["setting", "decides", *(each.letter for each in runs)],
    )


def same(runs: Sequence[Compared], different: pd.DataFrame) -> str:
    """What is the same in all runs, in one line; empty if no setting is."""
    changed = {*different["setting"]}
    settings = with_later_settings(runs[0].run.config)
    equal = [name for name in RunConfig.model_fields if name not in {*changed, *ABOUT_THE_RUN}]
    named = [name for name in FIRST_NAMED if name in equal and settings.get(name) is not None]
    if not equal:
        return ""
    words = [f"{name} {setting_text(name, settings[name])}" for name in named]
    others = len(equal) - len(named)
    return ", ".join(words) + (f" and {others} further settings" if others > 1 else "")


def same_images(runs: Sequence[Compared]) -> list[int] | None:
    """For each run, the index of the first run that has the same images; None if it is unknown.

    Runs of older versions recorded no fingerprint.
    """
    prints = [each.run.config.get("data_fingerprint") for each in runs]
    if not all(isinstance(each, Mapping) for each in prints):
        return None
    return [
        next(i for i, other in enumerate(prints[: index + 1]) if _equal(other, each))
        for index, each in enumerate(prints)
    ]


def _equal(first: Any, second: Any) -> bool:
    """Whether two recorded fingerprints are of the same images, up to rounding."""
    if first == second:
        return True
    from headsearch.data.fingerprint import difference, read_back  # imports torch: seldom needed

    here, there = read_back(first), read_back(second)
    return here is not None and there is not None and difference(here, there) is None


def _rows(runs: Sequence[Compared]) -> Iterator[Row]:
    """The settings of the runs, whether they differ or not."""
    settings = [with_later_settings(each.run.config) for each in runs]
    contents = [without_places(each) for each in settings]
    groups = same_images(runs)
    for name in RunConfig.model_fields:
        if name in ABOUT_THE_RUN:
            continue
        decides = name not in MAY_DIFFER and not (
            (name in PLACES_OF_IMAGES and groups is not None)
            or (name == "space" and _known_space(settings))
            or (name == "base_weights" and all(each.get("first_weights") for each in settings))
        )
        values = (each.get(name) for each in settings)
        yield Row(name, decides, tuple(setting_text(name, value) for value in values))
    if groups is not None:
        prints = [each["data_fingerprint"] for each in settings]
        yield Row(IMAGES, True, tuple(_short_hash(prints[group]) for group in groups))
    if _known_space(settings):
        written = [_short_hash(each["space_content"]) for each in contents]
        yield Row(SPACE, True, tuple(written))
    weights = [each.get("first_weights") for each in contents]
    yield Row(WEIGHTS, True, tuple(map(_short_hash, weights)))
    yield from _versions(settings)


def _known_space(settings: Sequence[Mapping[str, Any]]) -> bool:
    return all(isinstance(each.get("space_content"), Mapping) for each in settings)


def _versions(settings: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """The versions of headsearch and of the libraries, and the commit."""
    recorded = [each.get("versions") or {} for each in settings]
    for name in dict.fromkeys(name for each in recorded for name in each):
        yield Row(f"version of {name}", False, tuple(str(each.get(name, "–")) for each in recorded))
    commits = (str(each.get("git_commit") or "–")[:SHORT] for each in settings)
    yield Row("git_commit", False, tuple(commits))


def _short_hash(content: Any) -> str:
    """A short hash of a recorded value; a dash where there is none."""
    if not content:
        return "–"
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]

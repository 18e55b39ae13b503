"""Settings that say where something lies: data, weights, space. A run records them absolutely.

The place is no part of a run's identity. What decides its results is the content, which is checked
when a run is resumed: the fingerprint of the images, the hash of the weights, the content of the
space and the hash of its modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from headsearch.config.task_settings import with_places

LOCATIONS = (
    "data", "eval_data", "data_dir", "labels", "base_weights", "space", "dense_data",
    "dense_classes", "tasks",
)  # fmt: skip
"""The settings that name a place."""
BUILT_IN = "scenes"
"""The name of the built-in dataset; `./scenes` means a folder of this name."""
BUILT_IN_DENSE = ("scenes", "scenes-things")
"""The built-in sets of `dense_data`."""
NO_FILES = ("auto", "folders", "none")
"""The values of `labels` that name no file."""
TIMM_PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")
"""What the name of a timm dataset starts with, before a slash."""


def absolute_locations(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """The locations among some settings, valid in every working directory.

    Names stay as they are: the built-in data, timm's datasets, ready-made spaces, and what was
    passed as an object in Python.
    """
    found = {name: settings[name] for name in LOCATIONS if name in settings}
    given = settings.get("given", ())
    places = {
        name: value if value is None or name in given else _absolute(name, str(value))
        for name, value in found.items()
    }
    if "data_dir" not in places or places["data_dir"] is not None:
        return places
    prefixes = {str(found.get(name)).partition("/")[0].lower() for name in ("data", "eval_data")}
    if "torch" in prefixes:  # timm's readers look here by default
        places["data_dir"] = str(Path("data").absolute())
    elif "wds" in prefixes:
        places["data_dir"] = str(Path().absolute())
    return places


def _absolute(name: str, value: str) -> str:
    if name in ("data", "eval_data") and "::" in value:  # several archives
        return "::".join(_absolute(name, part) for part in value.split("::"))
    if name == "dense_data" and "," in value:  # training and evaluation images
        return ",".join(_absolute(name, part.strip()) for part in value.split(","))
    if name == "tasks":
        return with_places(value, partial(_absolute, "data"), _absolute_labels)
    of_images = value == BUILT_IN or _of_timm(value) or "://" in value
    is_name = {
        "data": of_images,
        "eval_data": of_images,
        "labels": value in NO_FILES or "://" in value,
        "space": not Path(value).is_file(),
        "dense_data": value in BUILT_IN_DENSE,
        "dense_classes": value == "supercategory",
    }
    return value if is_name.get(name, False) else str(Path(value).expanduser().absolute())


def _absolute_labels(value: str) -> str:
    """A file of labels; the name of a column stays as it is."""
    return _absolute("labels", value) if Path(value).expanduser().is_file() else value


def _of_timm(value: str) -> bool:
    prefix, slash, _ = value.partition("/")
    return bool(slash) and prefix.lower() in TIMM_PREFIXES


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are compared when a run is resumed: contents without their places.

    A module of a user's own family keeps the name of its file, and the hash that stands beside it.
    """
    kept = {name: value for name, value in settings.items() if name not in LOCATIONS}
    kept.pop("space_hash", None)  # of `space_content` with the spelling of its modules
    if isinstance(kept.get("first_weights"), Mapping):
        kept["first_weights"] = {"sha256": kept["first_weights"].get("sha256")}
    for name in ("space_content", "solo_head"):
        if isinstance(kept.get(name), Mapping):
            kept[name] = _with_modules(kept[name], lambda file: Path(file).name)
    return kept


def moved_modules(head: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A written head whose module, if it is a file, lies in this folder now."""
    return _with_modules(head, lambda file: str((folder / Path(file).name).absolute()))


def _with_modules(space: Mapping[str, Any], placed: Callable[[str], str]) -> dict[str, Any]:
    families = space.get("families")
    if not isinstance(families, Mapping):
        return dict(space)
    changed = {}
    for name, entry in families.items():
        changed[name] = entry
        spec = entry.get("module") if isinstance(entry, Mapping) else None
        file, _, attribute = str(spec).rpartition(":")
        if file.endswith(".py"):
            changed[name] = {**entry, "module": f"{placed(file)}:{attribute}"}
    return {**space, "families": changed}

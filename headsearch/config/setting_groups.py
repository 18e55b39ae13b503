"""Settings by what they decide, and the values that runs of older versions had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headsearch.config import formats

OF_SEARCH_ALONE = (
    "space", "coupling", "images_per_head", "trials", "cohort", "seeds", "sampler", "pruner",
    "eta", "min_keep", "prune_among", "stop", "storage", "rank_by",
)  # fmt: skip
"""Settings that pretraining with one head does not use."""

OF_A_STEP = (
    "base", "base_args", "space", "objective", "recipe", "budget", "batch_size", "image_size",
    "patch_size", "coupling", "images_per_head", "device", "precision", "cuda_graphs", "compile",
    "threads", "seed", "views", "domain", "clip_seconds", "sample_rate", "hop_ms", "mels",
    "text_tokens", "vocab_size",
)  # fmt: skip
"""Settings that the time and memory of a training step depend on."""

RECORDED = (
    formats.KEY, "study_name", "space_hash", "space_content", "base_arguments", "first_weights",
    "data_fingerprint", "git_commit", "versions", "given", "solo_head", "processes", "fleet",
)  # fmt: skip
"""Keys of a run's own config.yaml besides its settings; they are not read back as settings."""

_OLDER = {"normalization": "imagenet", "views": "small", "probe_classes": 0, "domain": "image"}
_OLDER_CROPS = {"hssl-vit-s": "crop_scale=0.14/1", "hssl-vit-b": "crop_scale=0.14/1"}


def of_older_runs(recipe: object) -> Mapping[str, Any]:
    """The values in runs made before a setting existed, where they differ from the default.

    Args:
        recipe: that of the run, which decided about crops before `views` did. Settings that were
            read from a file are texts with a line.
    """
    crops = _OLDER_CROPS.get(str(getattr(recipe, "value", recipe)))
    return {**_OLDER, "views": f"small,{crops}"} if crops else _OLDER


def not_inherited(recorded: Mapping[str, Any], flags: Mapping[str, Any]) -> Iterator[str]:
    """The settings of a run that another one with these flags does not take over.

    Args:
        recorded: the settings of the run.
        flags: the settings that are given now.
    """
    if {"base", "base_weights", "pretrained"} & flags.keys():
        yield "normalization"  # it is that of the run's own base
    if any(flags.get(name, recorded.get(name)) != recorded.get(name) for name in _OF_VIEWS):
        yield "views"  # they are those of the run's own objective and image size


_OF_VIEWS = ("objective", "image_size")
"""Settings that `--views auto` and `published` depend on."""

"""Names of bases: aliases, timm's names, and the head family built from the same blocks."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.models import split_model_name_tag

from headsearch.errors import UserError, unknown
from headsearch.models.bases import conformer  # registers its model with timm

ALIASES = {
    "vit_mini": "vit_tiny_patch16_224",
    "vit_t": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "convnext_t": "convnext_tiny",
    "swin_t": "swin_tiny_patch4_window7_224",
}
"""Short names for common bases. Any name of a timm model works too."""

ALIAS_ARGUMENTS: dict[str, dict[str, Any]] = {
    # A ViT that learns from small images within a minute on two CPU cores.
    "vit_mini": {
        "depth": 6,
        "embed_dim": 96,
        "num_heads": 3,
        "class_token": False,
        "global_pool": "avg",
    },
}
"""Arguments of timm's model that an alias sets, unless others are given.

There are no pretrained weights of such a base.
"""

OWN_FAMILY = {
    "vision_transformer": "attention",
    "vision_transformer_hybrid": "attention",
    "vision_transformer_sam": "attention",
    "deit": "attention",
    "beit": "attention",
    "eva": "attention",
    "convnext": "convnext",
    "resnet": "bottleneck",
    "resnetv2": "bottleneck",
    "swin_transformer": "swin",
    "swin_transformer_v2": "swin",
    "mlp_mixer": "mixer",
    "metaformer": "poolformer",
    "mambaout": "mambaout",
    "conformer": "hybrid",
}
"""timm's Python module → the head family with the same blocks. The control `own` uses it."""

_BUILT_OTHERWISE = {"resmlp": "resmlp", "gmlp": "gmlp", "convformer": None, "caformer": None}
"""First word of a model's name → its family, for models that differ from the rest of their module.

timm defines ResMLP and gMLP in `mlp_mixer`, ConvFormer and CAFormer in `metaformer`.
"""


def timm_name_of(name: str) -> str:
    """timm's name for a base given by an alias or by timm's name.

    Raises:
        UserError: timm has no such model, or no weights with the tag after the dot.
    """
    timm_name = ALIASES.get(name, name)
    if ":" in timm_name or "/" in timm_name or not timm.is_model(timm_name):
        raise unknown("base", name, _similar_names(name))
    model, tag = split_model_name_tag(timm_name)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        if not tags:
            raise UserError(f"base {name!r}: timm has no weights tagged {tag!r}; use {model!r}")
        raise unknown(f"tag of weights of {model}", tag, tags)
    return timm_name


def registered_by(timm_name: str) -> str | None:
    """The module to import before timm knows a model; None for a model of timm itself."""
    module = timm.model_entrypoint(split_model_name_tag(timm_name)[0]).__module__
    return module if module == conformer.__name__ else None


def own_family(timm_name: str) -> str | None:
    """The head family with the same blocks as a timm model; None where there is none."""
    model = split_model_name_tag(timm_name)[0]
    module = timm.model_entrypoint(model).__module__.rsplit(".", 1)[-1]
    return _BUILT_OTHERWISE.get(model.split("_")[0], OWN_FAMILY.get(module))


def _similar_names(name: str) -> list[str]:
    """The aliases and the closest timm names; the list of all timm models is too long to print."""
    return [*ALIASES, *difflib.get_close_matches(name, timm.list_models(), n=8, cutoff=0.6)]

"""Bases, the models that are pretrained: any timm model or a user's module, with one interface."""

from headsearch.models.bases.arguments import base_arguments, parsed_arguments
from headsearch.models.bases.base import Base, BaseOutput
from headsearch.models.bases.custom_module import plan_module
from headsearch.models.bases.names import ALIASES, OWN_FAMILY, registered_by, timm_name_of
from headsearch.models.bases.plan import BasePlan, plan_base
from headsearch.models.bases.shapes import Stage
from headsearch.models.bases.text_plan import (
    is_text_base,
    plan_named,
    plan_text_base,
    shape_without_data,
)
from headsearch.models.bases.trunk import compile_blocks, drop_no_paths, repeated_blocks
from headsearch.models.bases.waveform_plan import plan_waveform_base
from headsearch.models.bases.weights import (
    NORMALIZATION,
    Weights,
    normalization_of,
    pretrained_weights,
    read_weights,
)

__all__ = [
    "ALIASES",
    "NORMALIZATION",
    "OWN_FAMILY",
    "Base",
    "BaseOutput",
    "BasePlan",
    "Stage",
    "Weights",
    "base_arguments",
    "compile_blocks",
    "drop_no_paths",
    "is_text_base",
    "normalization_of",
    "parsed_arguments",
    "plan_base",
    "plan_module",
    "plan_named",
    "plan_text_base",
    "plan_waveform_base",
    "pretrained_weights",
    "read_weights",
    "registered_by",
    "repeated_blocks",
    "shape_without_data",
    "timm_name_of",
]

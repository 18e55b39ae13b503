"""Head families built from timm's blocks, their parameters, and the cost of a head."""

from headsearch.models.heads.cost import Cost, head_cost
from headsearch.models.heads.family import CAUSAL, DEPTH, Family, Grid, Parameter, Value
from headsearch.models.heads.registry import FAMILIES, build_head, with_common_parameters
from headsearch.models.heads.small_map import fit_to_map

__all__ = [
    "CAUSAL",
    "DEPTH",
    "FAMILIES",
    "Cost",
    "Family",
    "Grid",
    "Parameter",
    "Value",
    "build_head",
    "fit_to_map",
    "head_cost",
    "with_common_parameters",
]

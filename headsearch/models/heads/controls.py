"""The control family `identity`; the other control, `own`, is defined in `space/parameters.py`."""

from __future__ import annotations

from torch import nn

from headsearch.models.heads.family import Family, Grid


def build_identity(dim: int, grid: Grid) -> nn.Module:
    """Returns the base's map unchanged, so its discrepancy from the base is 0.

    Shapes: (B, D, H, W) → the same tensor.
    """
    return nn.Identity()


IDENTITY = Family("identity", "none: the base's own map", build_identity, {}, control=True)

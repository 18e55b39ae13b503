"""What heads are compared with. The base's own kind of block is the other one; see `space.py`."""

from __future__ import annotations

from torch import nn

from headsearch.models.heads.family import Family, Grid


def build_identity(dim: int, grid: Grid) -> nn.Module:
    """The base's map as it is: a head without discrepancy."""
    return nn.Identity()


IDENTITY = Family("identity", "none: the base's own map", build_identity, {}, control=True)

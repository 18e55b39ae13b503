"""Self-supervised objectives: one a file, chosen by name."""

from __future__ import annotations

from headsearch.errors import unknown
from headsearch.objectives.dino import Dino
from headsearch.objectives.mocov3 import MocoV3
from headsearch.objectives.objective import Losses, Objective

OBJECTIVES: dict[str, type[Objective]] = {"mocov3": MocoV3, "dino": Dino}


def make_objective(name: str) -> Objective:
    """The objective `name` with its defaults. Raises UserError for a name that is not known."""
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return OBJECTIVES[name]()


__all__ = ["OBJECTIVES", "Losses", "Objective", "make_objective"]

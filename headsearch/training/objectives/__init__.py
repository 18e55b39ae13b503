"""Self-supervised objectives (DINO, iBOT, SimCLR, …), one per file, and their registry by name."""

from __future__ import annotations

from headsearch.errors import unknown
from headsearch.training.objectives.barlow import Barlow
from headsearch.training.objectives.byol import Byol
from headsearch.training.objectives.dino import Dino
from headsearch.training.objectives.ibot import Ibot
from headsearch.training.objectives.mae import Mae
from headsearch.training.objectives.mocov3 import MocoV3
from headsearch.training.objectives.objective import Losses, Objective, StepOutputs, Targets
from headsearch.training.objectives.simclr import SimClr
from headsearch.training.objectives.simsiam import SimSiam
from headsearch.training.objectives.vicreg import VicReg

OBJECTIVES: dict[str, type[Objective]] = {
    "dino": Dino,
    "ibot": Ibot,
    "mocov3": MocoV3,
    "byol": Byol,
    "simsiam": SimSiam,
    "simclr": SimClr,
    "barlow": Barlow,
    "vicreg": VicReg,
    "mae": Mae,
}


def make_objective(name: str, **sizes: int) -> Objective:
    """Makes the objective of this name.

    Args:
        name: a name in `OBJECTIVES`.
        sizes: arguments of the objective's class, such as `hidden`; the rest keep their defaults.

    Raises:
        UserError: if no objective has this name.
    """
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return OBJECTIVES[name](**sizes)


def with_prototypes() -> list[str]:
    """The names of the objectives that assign images to prototypes."""
    return [name for name, objective in OBJECTIVES.items() if objective.has_prototypes]


__all__ = [
    "OBJECTIVES",
    "Losses",
    "Objective",
    "StepOutputs",
    "Targets",
    "make_objective",
    "with_prototypes",
]

"""Training recipes by name: the settings that they fix, and the schedules over a run.

A published recipe states durations in epochs of a long pretraining. Here they are shares of the
run, so that a run of any length has schedules of the same shape. `short` is the default recipe: it
fixes no setting, and the teacher's momentum is adapted to the length of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from headsearch.errors import unknown

LR_BATCH = 256
"""The batch size that published learning rates refer to; they scale linearly with the batch
size."""


def _frozen(**entries: Any) -> Mapping[str, Any]:
    return MappingProxyType(entries)


@dataclass(frozen=True)
class Recipe:
    """What a recipe fixes.

    Attributes:
        help: one line for the user, with the source.
        settings: fields of `RunConfig`. They override those of the budget; flags override them.
        objective_sizes: arguments of the objective that the recipe is made for.
        lr_per_256: peak learning rate for a batch of 256 images, scaled with `batch_size`; None
            uses the setting `lr`.
        lr_floor: the learning rate at the end of the cosine.
        warm_up: the share of the run in which the learning rate rises.
        weight_decay_end: the weight decay at the end of the cosine, which starts at the setting;
            None keeps it constant.
        momentum: of the teacher's moving average at the start; a cosine raises it to 1.
        turnovers: the minimum of (1 − momentum) · steps, how often the teacher's weights are
            renewed over the run. A short run therefore starts with a lower momentum. 0 uses the
            momentum as it is.
        drop_path: the rate at the base's last block; it rises linearly from 0 at the first block.
            Only the student's base drops paths.
    """

    help: str
    settings: Mapping[str, Any] = field(default_factory=_frozen)
    objective_sizes: Mapping[str, int] = field(default_factory=_frozen)
    lr_per_256: float | None = None
    lr_floor: float = 0.0
    warm_up: float = 0.1
    weight_decay_end: float | None = None
    momentum: float = 0.996
    turnovers: float = 10.0
    drop_path: float = 0.0

    def lr(self, batch_size: int) -> float | None:
        """The peak learning rate for a batch of this size; None if the recipe does not fix it."""
        return None if self.lr_per_256 is None else self.lr_per_256 * batch_size / LR_BATCH

    def sizes_for(self, objective: str) -> Mapping[str, int]:
        """The arguments of an objective: the recipe's for its own objective, none for others."""
        return self.objective_sizes if objective == self.settings.get("objective") else {}


SHORT = Recipe(help="schedules that fit a run of any length")


def _hssl(base: str, size: str) -> Recipe:
    """HSSL as its authors train it for 100 epochs; Li et al. 2025, arXiv 2310.05108.

    The temperatures (0.04 → 0.07 over 50 of the 100 epochs) and the freezing of prototypes (3 of
    100) are constants of the objective and not part of the recipe.
    """
    return Recipe(
        help=f"HSSL of a {size} as published, 100 epochs at 224 pixels (arXiv 2310.05108)",
        settings=_frozen(
            base=base,
            objective="ibot",
            coupling="joint",
            images=0,
            image_size=224,
            epochs=100,
            batch_size=256,
            weight_decay=0.04,
            views="published,crop_scale=0.14/1",
        ),
        objective_sizes=_frozen(hidden=2048, bottleneck=256, prototypes=8192),
        lr_per_256=0.00075,
        lr_floor=2e-6,
        warm_up=10 / 100,
        weight_decay_end=0.4,
        momentum=0.996,
        turnovers=0.0,
        drop_path=0.1,
    )


RECIPES: dict[str, Recipe] = {
    "short": SHORT,
    "hssl-vit-s": _hssl("vit_s", "ViT-S"),
    "hssl-vit-b": _hssl("vit_b", "ViT-B"),
}


def find_recipe(name: object) -> Recipe:
    """The recipe of this name.

    Raises:
        UserError: no such recipe.
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]

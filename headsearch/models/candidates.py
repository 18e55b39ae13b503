"""`candidate_table`: the candidates of a search space on a base, with their cost."""

from __future__ import annotations

import pandas as pd
from torch import nn

from headsearch.config.input_shape import InputShape
from headsearch.errors import UserError
from headsearch.models.bases import plan_module, plan_named
from headsearch.models.space import Space


def candidate_table(
    space: Space,
    base: str | nn.Module,
    image_size: int | InputShape,
    *,
    patch_size: int | None,
    base_args: str | None,
    limit: int,
) -> pd.DataFrame:
    """The candidates of a space on a base, a row each; see `headsearch.candidates`.

    Args:
        space: the search space.
        base: a name, or a module of the caller's own.
        image_size: side of the images in pixels, or the shape of the input.
        patch_size: side of a patch in pixels, for a name; None chooses it.
        base_args: arguments of the timm model, as KEY=VALUE,…
        limit: the largest number of candidates.

    Raises:
        UserError: no such base, or more candidates than `limit`.
    """
    if isinstance(base, str):
        plan = plan_named(base, image_size, patch_size=patch_size, base_args=base_args)
    else:
        plan = plan_module(base, image_size)
    listing = space.on(plan).enumerate(limit)
    if listing is None:
        size = "infinitely many" if space.size is None else f"{space.size:,}"
        raise UserError(f"{space.source} has {size} points, more than limit={limit}")
    return listing.table(plan)

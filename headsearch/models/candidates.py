"""`candidates`: the candidates of a search space on a base, with their cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from headsearch.config.base_names import shape_for
from headsearch.config.keywords import api_function
from headsearch.errors import UserError
from headsearch.models.bases import plan_module, plan_named
from headsearch.models.space import Space, as_space


@api_function()
def candidates(
    space: str | Path | Mapping[str, Any] | Space,
    base: str | nn.Module = "vit_mini",
    image_size: int = 32,
    *,
    patch_size: int | None = None,
    base_args: str | None = None,
    clip_seconds: float | None = None,
    limit: int = 200,
) -> pd.DataFrame:
    """The candidates of a space on a base, and their cost: `headsearch space`.

    Args:
        space: as for `search`.
        base: likewise.
        image_size: the side of the images in pixels.
        patch_size: the side of a patch in pixels, or its time steps; by default as in a search.
        base_args: arguments of the model, as for `--base-args`.
        clip_seconds: clips of sound in place of images: their length.
        limit: the largest number of candidates.

    Returns:
        A row for each candidate: `candidate, family, control, params_m, params_share, gflops,
        gflops_share`. Shares are relative to the base.

    Raises:
        UserError: no such space or base, a mistake in the space, or more candidates than `limit`.
    """
    found = as_space(space)
    shape = shape_for(base if isinstance(base, str) else "", image_size, clip_seconds)
    if isinstance(base, str):
        plan = plan_named(base, shape, patch_size=patch_size, base_args=base_args)
    else:
        plan = plan_module(base, shape)
    listing = found.on(plan).enumerate(limit)
    if listing is None:
        size = "infinitely many" if found.size is None else f"{found.size:,}"
        raise UserError(f"{found.source} has {size} points, more than limit={limit}")
    return listing.table(plan)

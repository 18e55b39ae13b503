"""Multi-crop: whether base, objective and settings can train on local crops, and what they cost."""

from __future__ import annotations

from typing import Any

import torch

from headsearch.config.settings import RunConfig
from headsearch.config.views import VIEWS, ViewSettings
from headsearch.data.domain import Views
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan
from headsearch.models.bases.arguments import check_arguments
from headsearch.models.bases.names import timm_name_of
from headsearch.models.bases.shapes import REFUSALS, first_line
from headsearch.training.objectives import OBJECTIVES, Objective

IMAGES = 2
"""The images of the forward pass that is tried: norms over a batch need two."""


def arguments_for_local_crops(base: str, arguments: dict[str, Any], views: Views) -> dict[str, Any]:
    """The arguments of timm's model, with which it also takes images of another size.

    timm's transformers interpolate their positions then. Models that do not need it do not take the
    argument, and keep theirs.
    """
    if not views.local_views:
        return arguments
    dynamic = {**arguments, "dynamic_img_size": True}
    try:
        check_arguments(timm_name_of(base), dynamic)
    except UserError:
        return arguments
    return dynamic


def check_local_views(
    config: RunConfig, plan: BasePlan, objective: Objective, views: Views
) -> None:
    """Raises UserError if local crops are asked for, but these settings cannot use them."""
    if not isinstance(views, ViewSettings) or not views.local_views:
        return
    if not objective.takes_local_views:
        names = " or ".join(name for name, kind in OBJECTIVES.items() if kind.takes_local_views)
        raise UserError(
            f"--views: local crops need the objective {names}, but it is {config.objective}: "
            "use local_views=0"
        )
    if config.images_per_head != "all":
        raise UserError(
            f"--images-per-head {config.images_per_head} cannot be combined with local crops: "
            "leave it out, or use local_views=0 in --views"
        )
    side = views.local_side(plan.image_size)
    try:
        with torch.device("meta"):
            base = plan.without_weights().build().to("meta")
            base(torch.empty(IMAGES, 3, side, side))
    except REFUSALS as error:
        patch = plan.arguments.get("patch_size")
        multiple = "" if patch is None else f" (a multiple of the patch size, {patch})"
        raise UserError(
            f"base {plan.name!r} takes no local crops of {side} pixels: {first_line(error)}; set "
            f"local_size in --views{multiple}, or use another base"
        ) from error


def crops_per_image(views: Views, image_size: int) -> float:
    """The crops of an image in a step, a local one counted by its share of the pixels."""
    if not isinstance(views, ViewSettings):
        return VIEWS
    return 2 + views.local_views * (views.local_side(image_size) / image_size) ** 2

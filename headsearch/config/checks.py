"""Checks of single settings, before pydantic checks their types and bounds."""

from __future__ import annotations

from typing import Any, get_args

from pydantic_core import PydanticCustomError


def checked_images_per_head(value: Any) -> Any:
    """`all`, `share`, or a whole number of at least 2, which a flag gives as text."""
    if value in ("all", "share"):
        return value
    number = int(value) if str(value).isascii() and str(value).isdigit() else 0
    if number < 2:
        raise PydanticCustomError(
            "images_per_head", "should be all, share or a number of images from 2 on"
        )
    return number


def refuse_switch(value: Any, annotation: Any) -> Any:
    """The value, unless it is YAML's `true` or `false` for a number, which Python takes as 1 or 0.

    Args:
        value: of a setting.
        annotation: the type of the setting.
    """
    if isinstance(value, bool) and {int, float} & {annotation, *get_args(annotation)}:
        raise PydanticCustomError("number", "should be a number")
    return value

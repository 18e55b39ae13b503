"""Checks of single settings, before pydantic checks their types and bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from pydantic_core import PydanticCustomError

from headsearch.config import audio_views, normalization, text_views, views, waveform_views
from headsearch.errors import UserError


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


def checked_bank_images(value: Any) -> Any:
    """0 for all images, or a number from 8 on; anything else than a number is left to pydantic."""
    text = str(refuse_switch(refuse_empty(value), int))
    if text.isascii() and text.isdigit() and 0 < int(text) < 8:
        raise PydanticCustomError(
            "bank_images", "should be 0 (all) or a number of images from 8 on"
        )
    return value


def checked_normalization(value: Any) -> str:
    """A text that names a normalisation."""
    try:
        normalization.parse(str(value))
    except UserError:
        names = ", ".join(normalization.NAMED)
        raise PydanticCustomError(
            "normalization", f"should be auto, {names} or MEAN/STD such as 0.5,0.5,0.5/0.2,0.2,0.2"
        ) from None
    return str(value)


def checked_views(value: Any) -> str:
    """A text that describes random views, of any domain: of which one is known with the data."""
    text, why = str(value), ""
    for check, names in _CHECKS_OF_VIEWS:
        try:
            check(text)
        except UserError as error:
            if not why or any(f"{name}=" in text for name in names):
                why = str(error)
        else:
            return text
    raise PydanticCustomError("views", "{why}", {"why": why})


_CHECKS_OF_VIEWS: tuple[tuple[Callable[[str], object], tuple[str, ...]], ...] = (
    (views.check, ()),
    (audio_views.views_for_clips, audio_views.ONLY_OF_CLIPS),
    (waveform_views.views_for_waveforms, waveform_views.ONLY_OF_WAVEFORMS),
    (text_views.views_for_texts, text_views.ONLY_OF_TEXTS),
)
"""For each kind of inputs what reads its views, and the settings that it alone has."""


def refuse_empty(value: Any) -> Any:
    """The value, unless it is an empty text, which as a path would be the current folder."""
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("empty", "must not be empty; leave it out for the default")
    return value


def refuse_switch(value: Any, annotation: Any) -> Any:
    """The value, unless it is YAML's `true` or `false` for a number, which Python takes as 1 or 0.

    Args:
        value: of a setting.
        annotation: the type of the setting.
    """
    if isinstance(value, bool) and {int, float} & {annotation, *get_args(annotation)}:
        raise PydanticCustomError("number", "should be a number")
    return value

"""`flags_from`: the settings that a caller in Python gives, as the command line has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsearch.config.settings import RunConfig
from headsearch.errors import unknown


def flags_from(settings: Mapping[str, Any], **objects: Any) -> dict[str, Any]:
    """Settings as the command line has them; an object is named by its class.

    Raises:
        UserError: there is no such setting.
    """
    for name in settings:
        if name not in RunConfig.model_fields:
            raise unknown("setting", name, RunConfig.model_fields)
    named = {
        name: str(value) if isinstance(value, str | Path) else type(value).__name__
        for name, value in objects.items()
        if value is not None
    }
    return {**settings, **named}

"""Names of bases of transformers (`hf:TYPE`, `hf:FOLDER`)."""

from __future__ import annotations

from pathlib import Path

TRANSFORMERS = "hf:"
"""Stands before the names of bases of transformers."""


def is_of_transformers(name: str) -> bool:
    """Whether a name is that of a model type of transformers, or of a model folder."""
    return name.startswith(TRANSFORMERS)


def folder_of(name: str) -> Path | None:
    """The model folder that a name means; None if it means none."""
    if not is_of_transformers(name):
        return None
    folder = Path(name.removeprefix(TRANSFORMERS)).expanduser()
    return folder if folder.is_dir() else None

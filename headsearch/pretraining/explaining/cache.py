"""What was measured of each base, kept under RUN/explain/cache so that a later call goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from headsearch.pretraining.explaining.subjects import Subject
from headsearch.runs.snapshot import write_weights

VERSION = "1"
"""Increased when a part is measured in another way, so that older files are not used."""
ENTRY = "made_from"
"""The key of a file's metadata that says what it was made from."""


@dataclass(frozen=True)
class Cache:
    """Measured parts as safetensors files.

    Attributes:
        folder: the folder, which is made when something is kept.
    """

    folder: Path

    def path(self, subject: Subject, part: str) -> Path:
        """The file of a part of a base."""
        return self.folder / subject.label / f"{part}.safetensors"

    def holds(self, subject: Subject, part: str, made_from: str) -> bool:
        """Whether a part was measured, from just this."""
        try:
            with safe_open(self.path(subject, part), framework="pt") as opened:
                found: Mapping[str, str] = opened.metadata() or {}
        except (OSError, SafetensorError):
            return False
        return found.get(ENTRY) == f"{VERSION} {made_from}"

    def keep(
        self, subject: Subject, part: str, made_from: str, measure: Callable[[], dict[str, Tensor]]
    ) -> None:
        """Measures a part and keeps it."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in measure().items()}
        path = self.path(subject, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weights(path, tensors, (ENTRY, f"{VERSION} {made_from}"))

    def read(self, subject: Subject, part: str, *names: str) -> dict[str, Tensor]:
        """Some tensors of a part; all of them if none is named."""
        with safe_open(self.path(subject, part), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in names or opened.keys()}

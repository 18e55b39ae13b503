"""The directory of a solo run of `verify`: what it says of the run, whether it has ended or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import pandas as pd

from headsearch.pretraining.run import PRETRAIN_COLUMNS
from headsearch.runs.directory import CONFIG, read_config
from headsearch.runs.snapshot import FOLDER
from headsearch.runs.tables import SOLO_COLUMNS


@dataclass(frozen=True)
class Solo:
    """One solo run of a verification.

    Attributes:
        candidate: the name of the head, or "none".
        family: the family of the head, or "none".
        seed: its seed.
        directory: its directory.
        lr: the peak learning rate. It is the same for all solo runs of a verification: if a later
            search lowered it, runs of different rates would not be comparable.
    """

    candidate: str
    family: str
    seed: int
    directory: Path
    lr: float

    def scores(self) -> dict[str, Any] | None:
        """Its row of solo.csv; None until it has ended."""
        table = self.directory / "pretrain.csv"
        # A run with another learning rate does not count: it will be repeated.
        if not table.is_file() or self.begun().get("lr", self.lr) != self.lr:
            return None
        last = pd.read_csv(table).reindex(columns=list(PRETRAIN_COLUMNS)).iloc[-1]
        if last["rung"] != 1:
            return None
        about = {"candidate": self.candidate, "family": self.family, "seed": self.seed}
        return about | {name: last[name] for name in SOLO_COLUMNS if name not in about}

    def begun(self) -> dict[str, Any]:
        """The settings that it was started with; empty before it is started."""
        started = (self.directory / CONFIG).is_file()
        return read_config(self.directory) if started else {}

    def left_on(self) -> str | None:
        """The device on which it left a snapshot to resume from; None if there is none."""
        begun = self.begun()
        left = (self.directory / FOLDER).is_dir() and begun.get("lr") == self.lr
        return str(begun["device"]) if left else None

    @property
    def log(self) -> Path:
        """The file with the output of its process."""
        return self.directory.with_name(self.directory.name + ".log")

    def __str__(self) -> str:
        return f"{self.candidate} seed {self.seed}"


def why_failed(code: int, log: Path) -> str:
    """Why the process of a solo run failed, in a line.

    Args:
        code: its exit code; negative for a signal that killed it.
        log: the file with its output, whose last line gives the reason otherwise.
    """
    if code < 0:
        return f"killed by {Signals(-code).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    nonempty = [line.strip() for line in lines if line.strip()]
    return nonempty[-1].removeprefix("headsearch: ") if nonempty else "it ended without any output"

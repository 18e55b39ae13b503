"""`check_here`: whether this process can do what the settings ask for."""

from __future__ import annotations

from importlib.util import find_spec

from headsearch import torchrun
from headsearch.config.settings import RunConfig
from headsearch.errors import UserError


def check_here(config: RunConfig) -> None:
    """Checks that this process can do what the settings ask for.

    Raises:
        UserError: tensorboard is not installed, or each process of a job would download the data.
    """
    if config.log == "tensorboard":
        spec = find_spec("tensorboard")
        if spec is None or spec.origin is None:  # a mere folder of that name has no origin
            raise UserError(
                "--log tensorboard needs the package tensorboard: "
                "pip install 'headsearch[tensorboard]'"
            )
    if config.download and torchrun.count() > 1:
        raise UserError(
            "--download would fetch the data once a process: fetch them before, by one alone"
        )

"""Search for the auxiliary head that helps a self-supervised vision model most."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from headsearch.errors import UserError

if TYPE_CHECKING:
    from headsearch.api import (
        Pretrained,
        Result,
        calibrate,
        candidates,
        export,
        load,
        pretrain,
        resume,
        resume_pretraining,
        search,
        verify,
    )

try:
    __version__ = version("headsearch")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Pretrained",
    "Result",
    "UserError",
    "calibrate",
    "candidates",
    "export",
    "load",
    "pretrain",
    "resume",
    "resume_pretraining",
    "search",
    "verify",
]


def __getattr__(name: str) -> Any:
    """The API is loaded when it is first asked for: torch takes seconds, `--help` must not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("headsearch.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

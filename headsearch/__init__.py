"""Search for the auxiliary head that helps a self-supervised vision model most."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headsearch.errors import UserError

if TYPE_CHECKING:
    from headsearch.api import (
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
    from headsearch.pretraining.run import Pretrained
    from headsearch.report.comparison import Comparison, compare

__all__ = [
    "Comparison",
    "Pretrained",
    "Result",
    "UserError",
    "calibrate",
    "candidates",
    "compare",
    "export",
    "load",
    "pretrain",
    "resume",
    "resume_pretraining",
    "search",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Loads the API on first use: torch takes seconds to import, and `--help` must not wait.

    The version too: the command line handles no signal until this package is imported.
    """
    if name == "__version__":
        return import_module("headsearch.version").VERSION
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("headsearch.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})

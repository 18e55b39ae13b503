"""The installed version of headsearch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("headsearch")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0+unknown"

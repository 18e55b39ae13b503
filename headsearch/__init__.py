"""Search for the auxiliary head that helps a self-supervised vision model most."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("headsearch")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

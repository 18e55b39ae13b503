"""The old import path of `headsearch.models.heads`, kept for families of users' own."""

from headsearch.models.heads import *  # noqa: F403
from headsearch.models.heads import __all__ as __all__

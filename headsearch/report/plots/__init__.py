"""The plots of a report, and plots of any two columns of a run.

Importing this package imports matplotlib, whatever MPLBACKEND says.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def _import_matplotlib() -> None:
    """Imports matplotlib, with the backend of MPLBACKEND only if there is one of that name.

    A notebook sets MPLBACKEND for its child processes too, which may run where that backend is not
    installed, and then matplotlib cannot be imported. Plots here are files and need no backend.
    """
    if "matplotlib" in sys.modules:
        return
    asked = os.environ.pop("MPLBACKEND", None)
    import matplotlib as mpl

    if asked:
        os.environ["MPLBACKEND"] = asked
        with suppress(ValueError):
            mpl.rcParams["backend"] = asked


_import_matplotlib()

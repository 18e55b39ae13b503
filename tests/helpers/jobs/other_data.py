"""headsearch in a job whose second process asks for other images than the first."""

from __future__ import annotations

import sys

from headsearch import cli, torchrun

if torchrun.rank() == 1:
    sys.argv += ["--images", "64"]
cli.main()

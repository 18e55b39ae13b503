"""`PlotFile`: the path of a plot, which a notebook shows as the picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # Path itself has no subclasses of its own before Python 3.12


class PlotFile(_Path):
    """The path of a plot that was written. A notebook shows a .png or .svg as a picture.

    It is a `pathlib.Path` in every other way.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]] | None:
        """The picture and its size on a screen in pixels, half of its own; None if it is no PNG."""
        if self.suffix.lower() != ".png" or not self.is_file():
            return None
        with Image.open(self) as image:
            width, height = image.size
        return self.read_bytes(), {"width": width // 2, "height": height // 2}

    def _repr_svg_(self) -> str | None:
        """The drawing; None if it is no SVG."""
        if self.suffix.lower() != ".svg" or not self.is_file():
            return None
        return self.read_text(encoding="utf-8")

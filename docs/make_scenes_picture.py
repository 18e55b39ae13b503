"""Draws docs/scenes.png, the README's picture of the built-in dataset.

python docs/make_scenes_picture.py [--out docs/scenes.png]
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from PIL import Image

from headsearch.data.image.synthetic.scenes import CLASSES, Scenes, generate_scenes

SAMPLES, SIZE = 7, 72
"""Images of a class, and their side in pixels."""
GAP = 3
"""Pixels between images."""
MASK_COLOURS = ("#00000000", "#56B4E9", "#E69F00", "#CC79A7", "#D55E00", "#F0E442")
"""The colours of Okabe and Ito, which colour-blind readers can tell apart. The first one, of the
background, is transparent."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("scenes.png"))
    out = parser.parse_args().out
    scenes = generate_scenes(len(CLASSES) * SAMPLES, SIZE, seed=4)
    columns, rows = SAMPLES + 1, len(CLASSES)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * (SIZE + GAP) / 100 + 0.85, rows * (SIZE + GAP) / 100 + 0.3),
        gridspec_kw={"wspace": GAP / SIZE, "hspace": GAP / SIZE},
    )
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left=0.83 / width, right=0.995, bottom=0.005, top=1 - 0.28 / height)
    for row, name in enumerate(CLASSES):
        members = (scenes.labels == row).nonzero()[:, 0].tolist()
        # The last image of a class is drawn twice: the second time with its mask and box.
        for column, index in enumerate([*members, members[-1]]):
            ax = axes[row, column]
            draw_scene(ax, scenes, index, annotated=column == SAMPLES)
            if column == 0:
                ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    axes[0, SAMPLES].set_title("mask, box", fontsize=9, pad=5)
    out.parent.mkdir(parents=True, exist_ok=True)
    png = io.BytesIO()
    figure.savefig(png, dpi=100)
    plt.close(figure)
    # For a picture of this size 256 dithered colours are enough, at a third of the bytes.
    picture = Image.open(png).convert("RGB")
    # The palette is computed first, because Pillow dithers only to a palette that it is given.
    dithered = picture.quantize(palette=picture.quantize(256))
    dithered.save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def draw_scene(ax: Axes, scenes: Scenes, index: int, *, annotated: bool) -> None:
    """Draws one image, with its mask and box if annotated."""
    ax.imshow(scenes.images[index].permute(1, 2, 0).numpy(), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if not annotated:
        return
    last = len(MASK_COLOURS) - 1
    mask = scenes.masks[index].numpy()
    ax.imshow(mask, cmap=ListedColormap(MASK_COLOURS), vmin=0, vmax=last, alpha=0.65)
    x0, y0, x1, y1 = scenes.boxes[index].tolist()
    # imshow centres a pixel on its coordinate, so that its edges are half a unit away.
    corner, extent = (x0 - 0.5, y0 - 0.5), (x1 - x0, y1 - y0)
    ax.add_patch(Rectangle(corner, *extent, fill=False, edgecolor="white", lw=1.5))


if __name__ == "__main__":
    main()

"""A tiny search by the Python API whose run directory other commands can go on with."""

from __future__ import annotations

from pathlib import Path

import headsearch

SPACE = {
    "families": {"convnext": {"depth": 1, "kernel": 3, "first_shortcut": False}},
    "controls": {"own": {"depth": 1}},
}


def searched(out: Path, eval_images: int = 64) -> Path:
    """The run directory `out` of a search of one head and one control."""
    headsearch.search(
        "test_vit", SPACE, image_size=16, patch_size=4, images=64, epochs=1, batch_size=32,
        rungs=1, eval_images=eval_images, bank_images=64, threads=1, device="cpu",
        precision="float32", out=out, progress=False,
    )  # fmt: skip
    return out

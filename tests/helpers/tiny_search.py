"""A search of eight small heads in two cohorts that takes some seconds: its space and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headsearch.config.settings import resolve
from headsearch.study.setup import SearchSetup, prepare

SPACE = """
families:
  attention: {depth: 1}
  convnext: {depth: 1, kernel: 3, first_shortcut: [true, false]}
  poolformer: {depth: 1}
  mixer: {depth: [1, 2]}
controls:
  identity:
"""

SAMPLED = """
families:
  convnext: {depth: {low: 1, high: 2}, kernel: [3, 5, 7], mlp_ratio: {low: 1.0, high: 2.0}}
  poolformer: {depth: {low: 1, high: 3}}
controls:
  identity:
"""


def settings(tmp_path: Path, space: str = SPACE, **changes: Any) -> dict[str, Any]:
    file = tmp_path / "space.yaml"
    file.write_text(space)
    return {
        "base": "test_vit", "base_args": "depth=2", "space": str(file), "image_size": 16,
        "patch_size": 4, "images": 48, "epochs": 2, "batch_size": 16, "rungs": 3,
        "eval_images": 64, "bank_images": 64, "min_keep": 2, "cohort": 4, "device": "cpu",
        "precision": "float32", "threads": 1, "coupling": "joint", **changes,
    }  # fmt: skip


def begun(tmp_path: Path, name: str, space: str = SPACE, **changes: Any) -> SearchSetup:
    return prepare(resolve(settings(tmp_path, space, out=tmp_path / name, **changes)))

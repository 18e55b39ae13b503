"""What each `--budget` contains, in words, from the presets themselves."""

from __future__ import annotations

from headsearch.config.settings import PRESETS
from headsearch.text import counted


def budget_words(budget: str) -> str:
    """A budget in words: '1,024 images, 2 epochs, at most 16 candidates, 4 rungs'."""
    preset = PRESETS[budget]
    images = int(preset["images"])
    return ", ".join(
        [
            f"{images:,} images" if images else "all images",
            counted(int(preset["epochs"]), "epoch"),
            f"at most {counted(int(preset['trials']), 'candidate')}",
            counted(int(preset["rungs"]), "rung"),
        ]
    )


def all_budgets() -> str:
    """All budgets in words."""
    return "; ".join(f"{budget}: {budget_words(budget)}" for budget in PRESETS)


def defaults_by_budget(setting: str) -> str:
    """A setting's default under each budget: 'quick 2, standard 8, full 100'."""
    return ", ".join(f"{budget} {_shown(setting, PRESETS[budget][setting])}" for budget in PRESETS)


def _shown(setting: str, value: float) -> str:
    if setting == "images" and not value:
        return "all"
    return f"{value:,}" if value == int(value) else f"{value:g}"

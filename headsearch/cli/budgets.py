"""What each `--budget` contains, in words, from the presets themselves."""

from __future__ import annotations

from headsearch.config.presets import DEFAULT_LR, PRESETS, quick_lr
from headsearch.config.settings import RunConfig
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


def defaults_by_budget(setting: str) -> str | None:
    """A setting's default under each budget: 'quick 2, standard 8, full 100'.

    None if it does not depend on the budget.
    """
    if setting == "lr":
        return _rates()
    if not any(setting in preset for preset in PRESETS.values()):
        return None
    usual = RunConfig.model_fields[setting].default
    return ", ".join(
        f"{budget} {_shown(setting, preset.get(setting, usual))}"
        for budget, preset in PRESETS.items()
    )


WIDTH = 384
"""The width of the base (ViT-S) for which the help gives the learning rate of budget `quick`."""


def _rates() -> str:
    """The peak learning rate under each budget; that of `quick` depends on the base."""
    others = ", ".join(f"{budget} {DEFAULT_LR:g}" for budget in PRESETS if budget != "quick")
    return (
        f"quick {quick_lr(WIDTH):g} × {WIDTH} / width of the base ({DEFAULT_LR:g} with other "
        f"--images, --epochs or --batch-size), {others}"
    )


def _shown(setting: str, value: float) -> str:
    if setting == "images" and not value:
        return "all"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"

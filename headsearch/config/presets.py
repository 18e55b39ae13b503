"""`PRESETS`: the settings that `--budget` decides; learning rate and limits of `quick`."""

from __future__ import annotations

PRESETS: dict[str, dict[str, float]] = {
    # For two CPU cores and a ViT-S with a 4×4 map. How far the base comes depends on the number of
    # steps more than on the images of a step. The learning rate is `quick_lr`.
    "quick": {
        "images": 4096,
        "epochs": 1,
        "batch_size": 32,
        "trials": 16,
        "cohort": 16,
        "rungs": 3,
        # Before half of these 128 steps a base is hardly better than untrained.
        "first_rung": 0.5,
        # As many as the discrepancy is measured on, and a bank as large.
        "eval_images": 512,
        "bank_images": 512,
    },
    # Enough for a small base to be well above raw pixels (results/cifar10/vit-standard).
    "standard": {
        "images": 20_000,
        "epochs": 8,
        "batch_size": 128,
        "trials": 24,
        "cohort": 12,
        "rungs": 5,
        "eval_images": 4000,
        "bank_images": 4000,
    },
    # All training images; for accelerators.
    "full": {
        "images": 0,
        "epochs": 100,
        "batch_size": 256,
        "trials": 96,
        "cohort": 24,
        "rungs": 8,
        "eval_images": 10_000,
        "bank_images": 20_000,
    },
}
"""The settings that a budget decides; a flag of each setting overrides them."""

STEPS_TO_LEARN = {
    "mocov3": 312, "vicreg": 312, "barlow": 312,
    "dino": 780, "ibot": 780, "byol": 780, "simsiam": 780, "mae": 780,
}  # fmt: skip
"""Steps of 128 images in which a small ViT rose above its untrained self on CIFAR-10.

None of these objectives has been seen to learn in the 128 steps of `quick`, as `simclr` does
(results/README.md).
"""

DEFAULT_LR = 5e-4


def quick_lr(width: int) -> float:
    """The peak learning rate of budget `quick`, inversely proportional to the base's width.

    AdamW's best rate for hidden weights falls as 1 / width (Yang et al. 2022, arXiv 2203.03466).
    The constant is measured: a ViT-S (384 wide) learns more at 2e-4
    than at 1e-4, 3e-4 or 5e-4 (results/README.md).

    Args:
        width: the number of channels of the base's last map.
    """
    return 2e-4 * 384 / width

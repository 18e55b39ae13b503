"""`PRESETS`: the settings that `--budget` decides."""

from __future__ import annotations

PRESETS: dict[str, dict[str, float]] = {
    # For two CPU cores without bfloat16 and a ViT-S with a 4×4 map: about five minutes.
    "quick": {
        "images": 1024,
        "epochs": 2,
        "batch_size": 64,
        # With a ten times larger rate, a ViT-S is near collapse after these 32 steps: effective
        # rank 7 and 12 of 108 under two seeds, compared with 91 and 84 at this rate.
        "lr": 5e-5,
        "trials": 16,
        "cohort": 16,
        "rungs": 4,
        # As many as the discrepancy is measured on, and a bank as large: a rung then costs as much
        # as three steps.
        "eval_images": 512,
        "bank_images": 512,
    },
    # Enough for a small base to be well above raw pixels (results/cifar10/vit-standard).
    "standard": {
        "images": 20_000,
        "epochs": 8,
        "batch_size": 128,
        "lr": 5e-4,
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
        "lr": 5e-4,
        "trials": 96,
        "cohort": 24,
        "rungs": 8,
        "eval_images": 10_000,
        "bank_images": 20_000,
    },
}
"""The settings that a budget decides; a flag of each setting overrides them."""

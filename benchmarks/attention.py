"""Compares plain and PyTorch's fused attention in training a ViT on this machine.

    python benchmarks/attention.py

Prints, for each number of tokens, the time of a forward and backward pass with plain matrix
products over that with fused attention (medians of alternating repeats). The result is why
`headsearch.training.environment.set_up` switches fused attention off on CPUs.
"""

from __future__ import annotations

import statistics
import time

import timm
import torch

from headsearch.config.settings import resolve
from headsearch.device import mixed_precision
from headsearch.training.environment import set_up

REPEATS = 5
BATCH = 64


def main() -> None:
    device, autocast = set_up(resolve({}))
    print(f"{device}, {torch.get_num_threads()} threads, {'bf16' if autocast else 'float32'}")
    for image_size, patch_size in ((32, 8), (48, 8), (32, 4), (96, 8), (224, 16)):
        models = {}
        for fused in (True, False):
            timm.layers.set_fused_attn(fused)
            models[fused] = timm.create_model(
                "vit_tiny_patch16_224", img_size=image_size, patch_size=patch_size, num_classes=0
            ).to(device)
        images = torch.randn(BATCH, 3, image_size, image_size, device=device)
        times: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(REPEATS + 1):
            for fused, model in models.items():
                started = time.perf_counter()
                with mixed_precision(device, autocast):
                    output = model(images)
                output.float().square().mean().backward()
                if repeat:  # the first repeat is a warm-up
                    times[fused].append(time.perf_counter() - started)
        plain, fused_s = (statistics.median(times[fused]) for fused in (False, True))
        tokens = (image_size // patch_size) ** 2 + 1
        print(f"{tokens:4d} tokens: plain / fused = {plain / fused_s:.2f}", flush=True)


if __name__ == "__main__":
    main()

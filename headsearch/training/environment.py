"""PyTorch set up for a run: device, threads, precision, memory; settings for that device."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm.layers
import torch

from headsearch.config.settings import RunConfig, check_here, resolve
from headsearch.device import (
    choose_device,
    fast_at_bf16,
)
from headsearch.errors import UserError
from headsearch.training import distributed


def resolve_here(flags: Mapping[str, Any], config_file: Path | None = None) -> RunConfig:
    """The settings as `config.resolve` finds them, for the device that they mean.

    Raises:
        UserError: as `resolve`, no such device, or nothing here that could write its log.
    """
    settings = resolve(flags, config_file)
    check_here(settings)
    if choose_device(settings.device).type == "cpu":
        return settings
    return resolve(flags, config_file, accelerator=True)


def set_up(config: RunConfig) -> tuple[torch.device, bool]:
    """Sets up PyTorch for a run; returns the device and whether products run in bfloat16.

    The processes of a job meet here.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    distributed.join_processes(device)
    # On a CPU, plain products train a ViT of 17 to 197 tokens 1.4 to 1.8 times as fast as PyTorch's
    # fused attention, whose backward is slow there (benchmarks/attention.py).
    timm.layers.set_fused_attn(device.type != "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    autocast = config.precision == "bf16" or (config.precision == "auto" and fast_at_bf16(device))
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    return device, autocast


def check_compiler(device: torch.device) -> None:
    """Raises UserError where torch.compile has no C++ compiler, which it needs on a CPU."""
    compiler = os.environ.get("CXX", "g++" if sys.platform == "linux" else "clang++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"--compile needs a C++ compiler, and there is no {compiler}")


def keep_freed_memory() -> None:
    """Has the C library keep the memory that a step frees, for the next step.

    glibc gives large blocks back to the system, which then hands them out page by page, each zeroed
    and faulted in anew: a tenth of a training step and a third of an augmentation on a CPU. What a
    run held at its peak stays its own until it ends. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    mmap_threshold, trim_threshold = -3, -1  # glibc's malloc.h; -1 for a value: never
    mallopt(trim_threshold, -1)
    if not mallopt(mmap_threshold, 2**30):  # older ones take no more than half of a heap
        mallopt(mmap_threshold, 2**25)

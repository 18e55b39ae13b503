"""Sets up PyTorch for a run (device, threads, precision, memory) and resolves its settings."""

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

from headsearch.config.machine import check_here
from headsearch.config.settings import RunConfig, resolve
from headsearch.device import (
    choose_device,
    fast_at_bf16,
)
from headsearch.errors import UserError
from headsearch.training import distributed


def resolve_here(flags: Mapping[str, Any], config_file: Path | None = None) -> RunConfig:
    """The settings of `config.settings.resolve`, with the defaults for the device that they name.

    Raises:
        UserError: what `resolve` or `check_here` raises, or there is no such device.
    """
    settings = resolve(flags, config_file)
    check_here(settings)
    if choose_device(settings.device).type == "cpu":
        return settings
    return resolve(flags, config_file, accelerator=True)


def set_up(config: RunConfig) -> tuple[torch.device, bool]:
    """Sets up PyTorch for a run.

    In a job of several processes, each waits here until all have joined.

    Returns:
        The device, and whether matrix products run in bfloat16.
    """
    if config.threads is not None:
        # More threads than cores make each other wait, and thousands can stall a machine.
        torch.set_num_threads(min(config.threads, os.cpu_count() or 1))
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
    """Raises UserError if the C++ compiler that torch.compile needs on a CPU is missing."""
    compiler = os.environ.get("CXX", "g++" if sys.platform == "linux" else "clang++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"--compile needs a C++ compiler, and there is no {compiler}")


def keep_freed_memory() -> None:
    """Makes the C library keep the memory that a step frees, so that the next step can reuse it.

    By default, glibc returns large blocks to the operating system. When they are allocated again,
    the system zeroes and faults in every page, which takes a tenth of a training step and a third
    of an augmentation on a CPU. With this setting, a process holds its peak memory until it ends.
    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    mmap_threshold, trim_threshold = -3, -1  # the options' numbers in glibc's malloc.h
    mallopt(trim_threshold, -1)  # never
    if not mallopt(mmap_threshold, 2**30):  # older versions accept at most half of a heap
        mallopt(mmap_threshold, 2**25)

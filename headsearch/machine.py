"""Where a run computes: device, precision and threads, as settings of one code path."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import timm.layers
import torch

from headsearch.config import RunConfig, resolve
from headsearch.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device that `--device` means; `auto` is the accelerator where there is one.

    Raises:
        UserError: no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"--device: no such device {name!r} (try auto, cpu, cuda or cuda:1)"
        ) from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device: headsearch runs on cpu and cuda, but got {name!r}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= found:
        raise UserError(f"--device: {name!r} is not there; this machine has {found} CUDA devices")
    return device


def resolve_here(flags: Mapping[str, Any], config_file: Path | None = None) -> RunConfig:
    """The settings as `config.resolve` finds them, for the device that they mean.

    Raises:
        UserError: as `resolve`, or no such device.
    """
    settings = resolve(flags, config_file)
    if choose_device(settings.device).type == "cpu":
        return settings
    return resolve(flags, config_file, accelerator=True)


def fast_at_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def set_up(config: RunConfig) -> tuple[torch.device, bool]:
    """Sets up PyTorch for a run; returns the device and whether products run in bfloat16."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    # On a CPU, plain products train a ViT of 17 to 197 tokens 1.4 to 1.8 times as fast as PyTorch's
    # fused attention, whose backward is slow there (benchmarks/attention.py).
    timm.layers.set_fused_attn(device.type != "cpu")
    autocast = config.precision == "bf16" or (config.precision == "auto" and fast_at_bf16(device))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device, autocast


def mixed_precision(device: torch.device, autocast: bool) -> AbstractContextManager[object]:
    """Matrix products in bfloat16 where asked for; weights, norms and losses stay in float32."""
    return torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within `mixed_precision`, products in the precision of their factors."""
    if device.type == "meta":  # torch knows no autocast there, so there is none to leave
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def synchronize(device: torch.device) -> None:
    """Waits until the device is done: what comes before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, the device's or the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch has no class of its own for it on a CPU
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate" in str(error)


def free_memory(device: torch.device) -> None:
    """Gives back what nothing refers to any more, from torch's cache on the device too."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()

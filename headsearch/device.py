"""Where a run computes: device, precision and threads, as settings of one code path."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import timm.layers
import torch
from torch import Tensor

from headsearch import ranks, torchrun
from headsearch.config.settings import RunConfig, check_log, resolve
from headsearch.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device that `--device` means; `auto` is the accelerator where there is one.

    Raises:
        UserError: no such device, or this machine has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
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
    if torchrun.count() > 1:  # each process of a job has its own, whatever the settings say
        device = torch.device("cuda", torchrun.local_rank())
    if (device.index or 0) >= found:
        raise UserError(
            f"--device: {str(device)!r} is not there; this machine has {found} CUDA devices"
        )
    return device


def resolve_here(flags: Mapping[str, Any], config_file: Path | None = None) -> RunConfig:
    """The settings as `config.resolve` finds them, for the device that they mean.

    Raises:
        UserError: as `resolve`, no such device, or nothing here that could write its log.
    """
    settings = resolve(flags, config_file)
    check_log(settings)
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
    """Sets up PyTorch for a run; returns the device and whether products run in bfloat16.

    The processes of a job meet here.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    ranks.join(device)
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


def mixed_precision(device: torch.device, autocast: bool) -> AbstractContextManager[object]:
    """Matrix products in bfloat16 where asked for; weights, norms and losses stay in float32."""
    return torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within `mixed_precision`, products in the precision of their factors."""
    if device.type == "meta":  # torch knows no autocast there, so there is none to leave
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def staged(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor from where a copy to the device need not wait: pinned memory for CUDA."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def synchronize(device: torch.device) -> None:
    """Waits until the device is done: what comes before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "std::bad_alloc",
)  # fmt: skip
"""What plain errors say that torch has no class of its own for."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, the device's or the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


def release_memory(device: torch.device) -> None:
    """Gives back what nothing refers to any more, from torch's cache on the device too."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free where training would take them; None where the system does not tell.

    Linux does not count what a container or a job may have at most.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.exists() else []
    free = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(kib) * 1024 for kib in free), None)


def resident_memory(device: torch.device) -> int:
    """Bytes that this process holds where training takes its own: 0 on an accelerator's side.

    Of systems other than Linux it is the most that the process has held.
    """
    if device.type == "cuda":
        return 0
    told = Path("/proc/self/status")
    if told.exists():
        lines = dict(line.split(":", 1) for line in told.read_text().splitlines())
        return int(lines["VmRSS"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What a measured time belongs to: the processor, its cores and threads, the system."""
    return {
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def _processor() -> str:
    """The processor's name as far as the system tells it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())

"""Device, precision and memory of a run: choosing the device, mixed precision, free memory."""

from __future__ import annotations

import gc
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headsearch import torchrun
from headsearch.errors import UserError


def cores_here() -> int:
    """The cores that this process may use, which a cluster's scheduler may have limited."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(name: str) -> torch.device:
    """The device that `--device` means; `auto` is the accelerator if there is one.

    Raises:
        UserError: no such device, or this machine does not have it.
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
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if torchrun.count() > 1:  # each process of a job uses its own device, whatever --device says
        device = torch.device("cuda", torchrun.local_rank())
    if (device.index or 0) >= available:
        raise UserError(
            f"--device: {str(device)!r} is not there; this machine has {available} CUDA devices"
        )
    return device


def fast_at_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        # Emulated bfloat16 is not faster than float32.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def mixed_precision(device: torch.device, autocast: bool) -> AbstractContextManager[object]:
    """Matrix products in bfloat16 if `autocast`; weights, norms and losses stay in float32."""
    return torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within `mixed_precision`, products in the precision of their factors."""
    if device.type == "meta":  # torch has no autocast for meta, so there is none to disable
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def staged(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor in pinned memory for CUDA, so that a copy to the device need not wait."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished; call it before reading a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "std::bad_alloc",
)  # fmt: skip
"""Messages of plain RuntimeErrors for which torch has no class of its own."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the device or the machine was not sufficient."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


def release_memory(device: torch.device) -> None:
    """Frees unreferenced memory, including torch's cache on the device."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def free_memory(device: torch.device) -> int | None:
    """Free bytes of the memory that training uses; None if the system does not report them.

    On Linux, the memory limit of a container or a job is not taken into account.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    free = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(kib) * 1024 for kib in free), None)


def resident_memory(device: torch.device) -> int:
    """Bytes of the machine's memory that this process holds; 0 if training uses an accelerator.

    On systems other than Linux, the maximum that the process has held so far.
    """
    if device.type == "cuda":
        return 0
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmRSS"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Facts that belong to a measured time: processor, cores, threads, system."""
    return {
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def _processor() -> str:
    """The processor's name as far as the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

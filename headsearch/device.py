"""Where a run computes: device, precision and threads, as settings of one code path."""

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


def fast_at_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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

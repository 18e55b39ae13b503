"""Where a run computes: memory that serves again, is given back, or does not suffice."""

from __future__ import annotations

import ctypes
import resource
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headsearch.device import out_of_memory, release_memory
from headsearch.training.environment import keep_freed_memory

PAGES = 2**12  # of 4 KiB


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="for glibc alone",
)
def test_memory_that_was_freed_is_used_again_without_the_system() -> None:
    """Else each page of each activation is faulted in anew in every step."""

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        _ = [torch.ones(PAGES * 4096 // 4) for _ in range(8)]
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    at_first = [faults() for _ in range(3)]
    assert faults() < PAGES, at_first


def error_of(bytes_: int) -> BaseException:
    with pytest.raises(RuntimeError) as error:
        torch.empty(bytes_, dtype=torch.uint8)
    return error.value


def test_want_of_memory_is_told_from_other_errors() -> None:
    assert out_of_memory(error_of(1 << 50))  # as torch says it on a CPU, in a plain RuntimeError
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not out_of_memory(error_of(-1))
    assert not out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_an_accelerator_s_cache_is_emptied(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[Any] = []

    def module(device: torch.device) -> Any:
        return SimpleNamespace(empty_cache=lambda: emptied.append(device.type))

    monkeypatch.setattr(torch, "get_device_module", module)
    release_memory(torch.device("cpu"))
    assert emptied == []
    release_memory(torch.device(kind))
    assert emptied == [kind]

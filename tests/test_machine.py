"""Where a run computes: what is set up in the process."""

from __future__ import annotations

import ctypes
import resource
import sys

import pytest
import torch

from headsearch.machine import keep_freed_memory

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

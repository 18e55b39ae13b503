"""Where a run computes: what says that memory did not suffice, and how it is given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headsearch.machine import free_memory, out_of_memory


def error_of(bytes_: int) -> BaseException:
    with pytest.raises(RuntimeError) as error:
        torch.empty(bytes_, dtype=torch.uint8)
    return error.value


def test_want_of_memory_is_told_from_other_errors() -> None:
    assert out_of_memory(error_of(1 << 50))  # as torch says it on a CPU, in a plain RuntimeError
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(error_of(-1))
    assert not out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_an_accelerator_s_cache_is_emptied(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[Any] = []

    def module(device: torch.device) -> Any:
        return SimpleNamespace(empty_cache=lambda: emptied.append(device.type))

    monkeypatch.setattr(torch, "get_device_module", module)
    free_memory(torch.device("cpu"))
    assert emptied == []
    free_memory(torch.device(kind))
    assert emptied == [kind]

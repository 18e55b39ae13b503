"""The memory of a step is estimated before the first one, and what cannot fit is refused."""

from __future__ import annotations

import os

import pytest
import timm.layers
import torch

from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.models.bases import plan_base
from headsearch.study.profiling.step_profiler import activation_bytes
from headsearch.training import memory_estimate
from headsearch.training.environment import set_up
from headsearch.training.memory_estimate import activation_bytes_per_image, check_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_the_estimate_is_what_a_forward_pass_keeps(name: str) -> None:
    timm.layers.set_fused_attn(False)  # as in training on a CPU
    plan = plan_base(name, 32)
    base, images = plan.build().train(), torch.randn(4, 3, 32, 32)
    kept = activation_bytes(lambda: base(images), (*base.state_dict().values(), images)) / 4
    assert activation_bytes_per_image(plan) == pytest.approx(kept, rel=0.1)


def test_a_base_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_estimate, "SMALL_GFLOPS", 0)
    plan = plan_base("test_vit", 32, patch_size=4)
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 10**6)
    with pytest.raises(
        UserError, match=r"64 images of 32 pixels \(an 8×8 map\) .*--patch-size"
    ) as e:
        check_memory(plan, 64, CPU, autocast=False)
    assert "\n" not in str(e.value)
    for free in (10**12, None):
        monkeypatch.setattr(memory_estimate, "free_memory", lambda device, free=free: free)
        check_memory(plan, 64, CPU, autocast=False)


def test_no_more_threads_than_cores() -> None:
    before = torch.get_num_threads()
    try:
        set_up(RunConfig(threads=1000, device="cpu"))
        assert torch.get_num_threads() == os.cpu_count()
    finally:
        torch.set_num_threads(before)

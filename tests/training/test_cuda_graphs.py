"""The recorder's own logic, with stand-ins for CUDA; `test_cuda.py` holds it against a device."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headsearch.training import cuda_graphs
from headsearch.training.cuda_graphs import WARM_UP, CudaGraphStep


@dataclass
class Inputs:
    """One tensor."""

    value: Tensor

    def tensors(self) -> list[Tensor]:
        return [self.value]

    def clone(self) -> Inputs:
        return Inputs(self.value.clone())


class Bench:
    """A parameter, work that adds a gradient to it, and a recorder that is to record that work.

    Where CUDA would only note the work, the stand-in does it; replaying does it again on the same
    tensors, into the gradient that was there.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: BaseException | None) -> None:
        self.parameter = nn.Parameter(torch.zeros(2))
        self.recorder: CudaGraphStep[Inputs] = CudaGraphStep(
            lambda: [self.parameter], torch.device("cuda"), possible=True
        )
        self.recorded: list[Inputs] = []
        self._recording = False
        bench = self

        class Graph:
            def replay(self) -> None:
                (inputs,) = bench.recorded
                bench.gradient.copy_(2 * inputs.value)

        class Recording:
            def __init__(self, graph: Graph, **options: Any) -> None: ...

            def __enter__(self) -> None:
                bench._recording = True

            def __exit__(self, *raised: object) -> None:
                bench._recording = False
                if failure is not None:
                    raise failure

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Recording)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
        monkeypatch.setattr(cuda_graphs, "_stream", lambda device: None)

    def work(self, inputs: Inputs) -> None:
        if inputs.value.shape != self.parameter.shape:
            return
        more = 2 * inputs.value
        gradient = self.parameter.grad
        self.parameter.grad = more if gradient is None else gradient + more
        if self._recording:
            self.recorded, self.gradient = [inputs], self.parameter.grad

    def gradient_of(self, value: float) -> list[float]:
        """The gradient that the work leaves for one input, with the gradients cleared after it."""
        self.recorder(Inputs(torch.full((2,), float(value))), self.work)
        assert self.parameter.grad is not None
        found = self.parameter.grad.tolist()
        self.parameter.grad = None
        return found


def test_recorded_work_is_done_on_what_is_given_and_leaves_its_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, None)
    settled = []
    for step in range(WARM_UP + 3):
        assert bench.gradient_of(step) == [2 * step, 2 * step]
        settled.append(bench.recorder.settled)
    assert settled == [False] * WARM_UP + [True] * 3
    bench.recorder.forget()
    assert not bench.recorder.settled


def test_other_shapes_are_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, None)
    for _ in range(WARM_UP + 1):
        bench.gradient_of(1)
    assert bench.recorder.settled
    bench.recorder(Inputs(torch.ones(3)), bench.work)
    assert not bench.recorder.settled


def test_a_recording_that_fails_leaves_no_gradients_and_names_its_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, RuntimeError("a head waits for the device"))
    for step in range(WARM_UP):
        bench.gradient_of(step)
    with pytest.warns(UserWarning, match="could not be recorded.*a head waits for the device"):
        assert bench.gradient_of(5) == [10, 10]  # once, not on top of what the recording left
    assert bench.recorder.settled
    assert bench.gradient_of(6) == [12, 12]


def test_whatever_else_is_raised_leaves_no_gradients_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, KeyboardInterrupt())
    for step in range(WARM_UP):
        bench.gradient_of(step)
    with pytest.raises(KeyboardInterrupt):
        bench.gradient_of(5)
    assert bench.parameter.grad is None

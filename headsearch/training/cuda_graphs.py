"""Records a training step as a CUDA graph and replays it.

A step of a small base with many heads consists of thousands of short kernels. A GPU runs them
faster than Python can launch them one by one. Replaying a CUDA graph launches all of them at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

WARM_UP = 2
"""How often the work runs unrecorded first: in these runs, libraries choose their kernels."""


class GraphInputs(Protocol):
    """The inputs of a step: a graph reads them from tensors at fixed addresses."""

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""

    def clone(self: Inputs) -> Inputs:
        """The same with a copy of every tensor."""


Inputs = TypeVar("Inputs", bound=GraphInputs)


class CudaGraphStep(Generic[Inputs]):
    """Runs the same work in every step, from a recording once there is one.

    The work must not read anything back from the device. It may draw random numbers only from
    torch's own generators, and must leave its results in place or as gradients of some parameters.
    If it cannot be recorded, it runs unrecorded, and a single warning says so.

    Args:
        parameters: returns the parameters whose gradients the work computes; called at each
            recording.
        device: the device that the work runs on.
        possible: whether to record the work at all.
    """

    def __init__(
        self,
        parameters: Callable[[], Iterable[nn.Parameter]],
        device: torch.device,
        *,
        possible: bool,
    ) -> None:
        self._parameters, self._device, self._possible = parameters, device, possible
        self._warned = False
        self.forget()

    def forget(self) -> None:
        """Drops the recording and frees its memory.

        Call it when the work has changed, or when something else needs the memory.
        """
        self._failed = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self._shapes: list[torch.Size] = []
        self._warm = 0

    @property
    def settled(self) -> bool:
        """Whether the time of a step will not change any more: it is recorded, or never will be."""
        return not self._possible or self._failed or self._graph is not None

    def __call__(self, inputs: Inputs, work: Callable[[Inputs], None]) -> None:
        """Runs the work on these inputs, or replays it on copies of them.

        Args:
            work: the same as in the call before, unless `forget` came between. It is not kept: an
                owner that passes one of its methods would otherwise never be freed.
        """
        tensors = inputs.tensors()
        shapes = [tensor.shape for tensor in tensors]
        if shapes != self._shapes:  # a graph is valid for the shapes that it was recorded with
            self.forget()
            self._shapes = shapes
        if not self.settled and self._warm >= WARM_UP:
            self._record(inputs, work)
        if self._graph is None:
            self._warm += 1
            work(inputs)
            return
        for copy, tensor in zip(self._inputs, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        self._graph.replay()
        # A replay writes to the tensors of the recording, which the optimizer's `zero_grad` drops.
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def _record(self, inputs: Inputs, work: Callable[[Inputs], None]) -> None:
        """Records the kernels that the work launches, without running them."""
        copies = inputs.clone()
        try:
            graph, stream = torch.cuda.CUDAGraph(), _stream(self._device)
            # A recording that fails does not restore the current stream, hence the outer block.
            # In the mode "thread_local", the thread that reads images ahead may use CUDA meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                work(copies)
        except BaseException as error:
            for parameter in self._parameters():
                parameter.grad = None
            if not isinstance(error, Exception):
                raise
            self._failed = True
            if not self._warned:
                why = str(error.__context__ or error).strip().partition("\n")[0]
                warnings.warn(
                    f"steps could not be recorded, and are slower for it: {why}", stacklevel=3
                )
            self._warned = True
            return
        self._graph, self._inputs = graph, copies.tensors()
        self._gradients = [(parameter, parameter.grad) for parameter in self._parameters()]


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device on which all recordings are made."""
    return torch.cuda.Stream(device)

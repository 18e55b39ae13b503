"""A training step as a CUDA graph: recorded once, then replayed.

A step of a small base with many heads is thousands of short kernels. A GPU runs them faster than
Python launches them one by one. Replaying a CUDA graph launches all of them at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

WARM_UP = 2
"""How often the work runs as it is before it is recorded: libraries choose their kernels then."""


class GraphInputs(Protocol):
    """The inputs of a step: a graph reads them from tensors at fixed addresses."""

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""

    def clone(self: Inputs) -> Inputs:
        """The same with a copy of every tensor."""


Inputs = TypeVar("Inputs", bound=GraphInputs)


class CudaGraphStep(Generic[Inputs]):
    """Does the same work step after step, from a recording once there is one.

    The work must read nothing back from the device, draw random numbers from torch's own generators
    alone, and leave its results in place, or as gradients of some parameters. Where it cannot be
    recorded it runs as it is; a first warning says so.

    Args:
        parameters: those whose gradients it leaves; called whenever it is recorded.
        device: where it runs.
        possible: whether it is to be recorded.
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
        """Drops the recording, and the memory of the work with it.

        Call it where the work has changed, or where something else needs the memory.
        """
        self._failed = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self._shapes: list[torch.Size] = []
        self._warm = 0

    @property
    def settled(self) -> bool:
        """Whether the work takes as long from now on as it will take later."""
        return not self._possible or self._failed or self._graph is not None

    def __call__(self, inputs: Inputs, work: Callable[[Inputs], None]) -> None:
        """Does the work on these inputs, or replays it on copies of them.

        Args:
            work: that of the call before, unless `forget` came between. It is not kept: whoever
                owns this object would never be freed if it held one of the owner's methods.
        """
        tensors = inputs.tensors()
        shapes = [tensor.shape for tensor in tensors]
        if shapes != self._shapes:
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
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def _record(self, inputs: Inputs, work: Callable[[Inputs], None]) -> None:
        """Records the kernels that the work launches; none of them runs yet."""
        copies = inputs.clone()
        try:
            graph, stream = torch.cuda.CUDAGraph(), _stream(self._device)
            # A recording that fails does not leave its stream by itself, hence the outer block.
            # The thread that reads images ahead may go on meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                work(copies)
        except BaseException as error:
            for parameter in self._parameters():
                parameter.grad = None
            if not isinstance(error, RuntimeError):
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
    """The stream of a device that all recordings are made on."""
    return torch.cuda.Stream(device)

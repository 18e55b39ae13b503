"""Peak memory of a training step, measured in a process that does nothing else.

On a CPU it is the resident memory of the whole process, Python and PyTorch included; the peak of a
process is never reset, so each measurement needs a new one. On an accelerator it is the memory that
PyTorch had allocated.

Run as `python -m headsearch.study.profiling.peak_memory HEADS`, this module reads the settings of a
benchmark as JSON from standard input, and prints a `Memory` as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from headsearch.config.domains import AUDIO, IMAGE, TEXT
from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.study.profiling.benchmark_setup import bench_heads, prepare_bench
from headsearch.study.profiling.step_profiler import MIDDLE
from headsearch.study.setup import SearchSetup
from headsearch.text import counted
from headsearch.training.setup import attach

MB = 1e6
"""Bytes."""
SIZE_OF = {IMAGE: "--image-size", AUDIO: "--clip-seconds", TEXT: "--text-tokens"}
"""The setting that decides the size of an input, by domain."""


@dataclass(frozen=True)
class Memory:
    """Memory of a process, in MB (10⁶ bytes).

    Attributes:
        before: the peak before base and heads are built.
        peak: the peak after two training steps, or on CUDA after the step that is recorded as a
            CUDA graph where that comes later.
    """

    before: float
    peak: float


def peak_memory(config: RunConfig, heads: int) -> Memory:
    """The memory of two steps with this many heads, measured in a new process.

    Args:
        config: `bench_settings`.

    Raises:
        UserError: the process failed, for lack of memory or for another reason.
    """
    # In its own session, so that Ctrl-C reaches this process alone, which then ends the new one.
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(heads)],
        input=config.model_dump_json(), capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    if child.returncode != 0:
        error_lines = child.stderr.strip().splitlines()
        reason = f" ({error_lines[-1]})" if error_lines else ""
        raise UserError(
            f"{counted(heads, 'head')} could not be trained here{reason}: use fewer --heads, or a "
            f"smaller --batch-size or {SIZE_OF[config.domain]}"
        )
    return Memory(**json.loads(child.stdout))


def measured_here(setup: SearchSetup, heads: int) -> Memory:
    """The memory of two steps with this many heads, in a process that has done nothing else."""
    config, device = setup.config, setup.training.device
    before = _peak_so_far(device)
    trainer = setup.training.new_trainer(config.coupling)
    for head in bench_heads(setup, heads):
        attach(trainer, setup.training, head)
    crops, local = setup.training.random_views()
    steps = 0
    # Two at least: the first step allocates the optimizer's state at its end.
    while steps < 2 or not trainer.settled:
        trainer.step(crops, MIDDLE, local)
        steps += 1
    return Memory(before, _peak_so_far(device))


def _peak_so_far(device: torch.device) -> float:
    """The most that this process has held so far, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage's ru_maxrss: on Linux a child process starts with the value of its parent.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / MB
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB  # bytes on macOS


if __name__ == "__main__":
    settings = RunConfig.model_validate_json(sys.stdin.read())
    print(json.dumps(asdict(measured_here(prepare_bench(settings), int(sys.argv[1])))))

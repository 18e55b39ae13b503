"""The memory that training takes at most, measured in a process that does nothing else.

On a CPU that is the resident memory of the whole process, Python and PyTorch included, whose
highest mark only a fresh process starts from nothing; on an accelerator what PyTorch had allocated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.study.profiling.benchmark_setup import bench_heads, prepare_bench
from headsearch.study.profiling.step_profiler import MIDDLE
from headsearch.study.setup import SearchSetup
from headsearch.training.setup import attach

MB = 1e6


@dataclass(frozen=True)
class Memory:
    """In MB (10⁶ bytes).

    Attributes:
        before: what the process had held at most before base and heads were made.
        peak: what it had held at most when two steps were done, or more until one is recorded.
    """

    before: float
    peak: float


def peak_memory(config: RunConfig, heads: int) -> Memory:
    """The memory of two steps with so many heads, in a process of its own.

    Raises:
        UserError: it does not fit.
    """
    # A session of its own: Ctrl-C ends this process, which then ends that one.
    child = subprocess.run(
        [sys.executable, "-m", "headsearch.study.search.profiling.peak_memory", str(heads)],
        input=config.model_dump_json(), capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    if child.returncode != 0:
        said = child.stderr.strip().splitlines()
        why = f" ({said[-1]})" if said else ""
        raise UserError(
            f"{heads} heads could not be trained here{why}: use fewer --heads, or a smaller "
            "--batch-size or --image-size"
        )
    return Memory(**json.loads(child.stdout))


def measured_here(prepared: SearchSetup, heads: int) -> Memory:
    """The memory of two steps with so many heads, if this process has done nothing else before."""
    config, device, side = prepared.config, prepared.device, prepared.plan.image_size
    before = _highest(device)
    trainer = prepared.new_trainer(config.coupling)
    for head in bench_heads(prepared, heads):
        attach(trainer, prepared, head)
    crops = torch.randn(2, config.batch_size, 3, side, side).to(device)
    steps = 0
    while steps < 2 or not trainer.settled:  # the first one makes the optimizer's state
        trainer.step(crops, MIDDLE)
        steps += 1
    return Memory(before, _highest(device))


def _highest(device: torch.device) -> float:
    """The most that this process has held so far, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: Linux lets a child begin with the mark of the process that started it.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / MB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB  # bytes on macOS


if __name__ == "__main__":
    settings = RunConfig.model_validate_json(sys.stdin.read())
    print(json.dumps(asdict(measured_here(prepare_bench(settings), int(sys.argv[1])))))

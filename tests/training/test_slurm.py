"""The script for Slurm, with stand-ins for Slurm's own commands: two machines, both this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from headsearch.runs.run import read_run
from helpers.in_ranks import free_port

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm.sh"
STAND_INS = {
    # srun starts its command once a machine, and ends as they do
    "srun": """#!/usr/bin/env bash
shift 2
trap 'kill -TERM $one $two' TERM
"$@" & one=$!
"$@" & two=$!
wait $one
wait $one && wait $two
""",
    "scontrol": """#!/usr/bin/env bash
if [ "$1" = requeue ]; then echo "queued $2 again"; else echo 127.0.0.1; echo 127.0.0.1; fi
""",
    "torchrun": f'#!/usr/bin/env bash\nexec {sys.executable} -m torch.distributed.run "$@"\n',
}
FLAGS = (
    "--base test_vit --space controls.yaml --image-size 16 --patch-size 4 --images 32 --epochs 20 "
    "--batch-size 16 --rungs 2 --eval-images 32 --bank-images 32 --cohort 4 --device cpu "
    "--precision float32 --threads 1"
)


def test_two_machines_search_together_and_a_job_told_to_stop_is_queued_again(
    tmp_path: Path,
) -> None:
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "two", "SLURM_NNODES": "2",
        "PROCESSES": "1", "PORT": str(free_port()), "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    run = tmp_path / "results" / "slurm-17"

    def job() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", SCRIPT, *FLAGS.split()], cwd=tmp_path, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    first = job()
    for _ in range(2400):
        if (run / "rungs.csv").is_file() or first.poll() is not None:
            break
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=300)
    assert first.returncode != 0
    assert "2 processes with a share of each step" in out, err[-3000:]
    assert "queued 17 again" in out
    assert read_run(run).facts["status"] == "interrupted"
    again = job()
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err[-3000:]
    assert "resuming from the last snapshot" in out
    assert "queued" not in out
    assert read_run(run).facts["status"] == "complete"

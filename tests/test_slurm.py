"""The script for Slurm, with stand-ins for Slurm's own commands: two machines, both this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from in_ranks import free_port

from headsearch.checkpoint import read_run

SCRIPT = Path(__file__).parents[1] / "examples" / "slurm.sh"
STAND_INS = {
    # srun starts its command once a machine, and ends as they do
    "srun": '#!/usr/bin/env bash\n"$@" & one=$!\n"$@" & two=$!\nwait $one && wait $two\n',
    "scontrol": "#!/usr/bin/env bash\necho 127.0.0.1\necho 127.0.0.1\n",
    "torchrun": f'#!/usr/bin/env bash\nexec {sys.executable} -m torch.distributed.run "$@"\n',
}
FLAGS = (
    "--base test_vit --space controls.yaml --image-size 16 --patch-size 4 --images 64 --epochs 2 "
    "--batch-size 32 --rungs 2 --eval-images 64 --bank-images 64 --cohort 4 --device cpu "
    "--precision float32 --threads 1"
)


def test_two_machines_search_together_and_a_job_queued_again_goes_on(tmp_path: Path) -> None:
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "two", "SLURM_NNODES": "2",
        "PROCESSES": "1", "PORT": str(free_port()), "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def job() -> str:
        done = subprocess.run(
            ["bash", SCRIPT, *FLAGS.split()], cwd=tmp_path, env=environment, timeout=300,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "2 processes with a share of each step" in job()
    found = read_run(tmp_path / "results" / "slurm-17")
    assert found.facts["status"] == "complete"
    assert "has come to its end already" in job()

#!/usr/bin/env bash
#SBATCH --job-name=headsearch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#
# One search over all GPUs of several machines:
#
#     sbatch examples/slurm.sh --base vit_b --space heads.yaml --data /data/imagenet/train
#
# Two minutes before its time limit, or when it is preempted, the job receives SIGTERM. The search
# writes a snapshot, the job is queued again, finds its run directory and resumes from there. torchrun
# gives its processes 30 seconds to stop. If a step and a snapshot take longer, the search resumes from
# its latest snapshot (--snapshot-every). The run directory and the data must be on a file system that
# all machines share.
set -euo pipefail

# The job keeps its id when it is queued again, so an existing run is one to resume.
run="results/slurm-${SLURM_JOB_ID}"
if [ -e "$run/config.yaml" ]; then
    command=(resume "$run")
else
    command=(run --out "$run" "$@")
fi
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
stopped=
# The signal (#SBATCH --signal=B:TERM) reaches this shell alone: pass it on to the search.
trap 'stopped=1; kill -TERM "$job"' TERM
srun --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "${PROCESSES:-gpu}" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "${nodes%%$'\n'*}:${PORT:-29500}" \
    -m headsearch "${command[@]}" &
job=$!
status=0
wait "$job" || status=$?
if [ -n "$stopped" ]; then
    # A trapped signal ends the first `wait` at once; the job is still writing its snapshot.
    wait "$job" || status=$?
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

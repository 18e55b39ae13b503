#!/usr/bin/env bash
#SBATCH --job-name=headsearch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#
# One search whose cohorts train on all GPUs of several machines, one cohort on each GPU:
#
#     sbatch examples/slurm_ray.sh --base vit_b --space large.yaml --trials 200 --data /data/train
#
# `ray symmetric-run` starts Ray on every machine of the job, the command on the first, and ends both.
# A job that Slurm queues again finds its run directory and resumes. The run directory and the data must
# be on a file system that all machines share. Not tested on a cluster.
set -euo pipefail

# The job keeps its id when it is queued again, so an existing run is one to resume.
run="results/slurm-${SLURM_JOB_ID}"
if [ -e "$run/config.yaml" ]; then
    command=(resume "$run" --engine auto)
else
    command=(run --engine auto --out "$run" "$@")
fi
# Only processes of this job may join or use the cluster. The token is in its environment alone.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" ray symmetric-run \
    --address "$head:${PORT:-6379}" --min-nodes "$SLURM_NNODES" --include-dashboard=false \
    -- headsearch "${command[@]}"

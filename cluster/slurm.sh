#!/bin/bash
# One command on a Ray cluster inside a Slurm job; data and run folder on a file system that all nodes see.
#   sbatch cluster/slurm.sh run --data /shared/readings --out /shared/runs/first \
#       --set runtime.num_workers=2 runtime.use_gpu=true
# Job status: that of the command. The same line again goes on from the last checkpoint of a job that ran out of time.
#SBATCH --job-name=ttsgan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=ttsgan-%j.log
# Whole nodes: `ray symmetric-run` ends with `ray stop`, which ends every Ray of this user on the node.
#SBATCH --exclusive
set -euo pipefail

if [[ $# -eq 0 ]]; then
    echo "usage: sbatch $0 run --data PATH --out PATH [OPTION ...]" >&2
    exit 2
fi

# The first node of the job is this one. HEAD_IP=... chooses another of its networks.
head_ip="${HEAD_IP:-$(hostname -I | awk '{print $1}')}"

export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0
# Python starts slowly from a file system that many nodes read.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# Written by the command's own shell: `ray symmetric-run` also ends with 0 where Ray did not start.
STATUS_FILE="$(mktemp -p "${SLURM_SUBMIT_DIR:-.}" .ttsgan-status-XXXXXX)"
export STATUS_FILE
trap 'rm -f "$STATUS_FILE"' EXIT

srun --ntasks-per-node=1 --export=ALL \
    ray symmetric-run --address "$head_ip:6379" --min-nodes "${SLURM_JOB_NUM_NODES:-1}" \
    --num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" -- \
    bash -c 'python -m ray_jobs.cli "$@" && status=0 || status=$?; echo "$status" > "$STATUS_FILE"; exit "$status"' \
    ttsgan "$@" --address auto || true

if [[ ! -s "$STATUS_FILE" ]]; then
    echo "Ray did not start on all nodes; see the lines above" >&2
    exit 1
fi
exit "$(< "$STATUS_FILE")"

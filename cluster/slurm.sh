#!/bin/bash
# Run one command on a Ray cluster inside a Slurm job; data and run folder must be on a file system that all nodes see.
#   sbatch cluster/slurm.sh run --data /shared/readings --out /shared/runs/first \
#       --set runtime.num_workers=2 runtime.use_gpu=true
# The job's exit status is the command's. After a job ran out of time, the same line resumes from the last checkpoint.
#SBATCH --job-name=ttsgan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=ttsgan-%j.log
# Take whole nodes: `ray symmetric-run` ends with `ray stop`, which ends every Ray of this user on the node.
#SBATCH --exclusive
set -euo pipefail

if [[ $# -eq 0 ]]; then
    echo "usage: sbatch $0 run --data PATH --out PATH [OPTION ...]" >&2
    exit 2
fi

# This script runs on the job's first node, which is the head. Set HEAD_IP=... to use another of its networks.
head_ip="${HEAD_IP:-$(hostname -I | awk '{print $1}')}"

export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0
# Wait longer for the nodes: Python starts slowly from a file system that many nodes read.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# The command's own shell writes its exit status here: `ray symmetric-run` ends with 0 also if Ray did not start.
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

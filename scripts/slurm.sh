#!/usr/bin/env bash
# A search on Slurm: `sbatch scripts/slurm.sh RUN_FOLDER [options of autocompress search]`.
#
# One Ray node on each node of the job, the driver on the first. The run folder lies on a disk that all nodes share.
# Submitted again with the same folder, it goes on with the run: after a time limit, a lost node or a requeue.
#SBATCH --job-name=autocompress
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

run="${1:?usage: sbatch scripts/slurm.sh RUN_FOLDER [options of autocompress search]}"
shift
cpus_per_trial=2
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
address="$head:$((20000 + SLURM_JOB_ID % 20000))"
export RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$head" --port="${address##*:}" --num-cpus="$SLURM_CPUS_PER_TASK" \
    --include-dashboard=false --block &
until ray status --address="$address" >/dev/null 2>&1; do sleep 2; done
if ((SLURM_NNODES > 1)); then
    srun --nodes="$((SLURM_NNODES - 1))" --ntasks="$((SLURM_NNODES - 1))" --exclude="$head" \
        ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

workers=$((SLURM_NNODES * SLURM_CPUS_PER_TASK / cpus_per_trial))
if [[ -f $run/run.yaml ]]; then
    autocompress resume "$run" --ray-address "$address" --workers "$workers"
else
    autocompress search --output "$run" --ray-address "$address" --workers "$workers" --cpus-per-trial "$cpus_per_trial" "$@"
fi

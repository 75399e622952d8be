#!/usr/bin/env bash
#SBATCH --job-name=gvr
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8     # one task for each GPU; Lightning wants this option rather than --ntasks
#SBATCH --gpus-per-node=8       # each task sees all of its node's and takes its own: no --gpus-per-task
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120       # to the tasks, two minutes before the time is up
#SBATCH --output=%x-%j.out

# One run as a SLURM job that goes on after a time limit or a preemption. From the checkout, its environment being active:
#
#   sbatch --nodes=4 experiments/launch/slurm.sh data=cifar10 model=resnet18 regularizer=gvr
#
# The arguments are train.py's. A requeued job keeps its number, so the folder stays; any other folder must be fixed, too,
# and on a file system that all nodes see.
set -uo pipefail

# After the signal all tasks save after the same update; the first ones to leave wait for no one, so srun waits for the rest.
srun --kill-on-bad-exit=0 --wait=60 \
    python train.py trainer=ddp resume=auto hydra.run.dir="outputs/slurm/$SLURM_JOB_ID" "$@"
status=$?

# 138: SIGUSR1, the time is up. 143: SIGTERM, a preemption; a job that scancel ends takes this script with it.
case $status in
138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"

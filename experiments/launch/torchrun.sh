#!/usr/bin/env bash
# One run on several machines, by the same command on each; its arguments are train.py's.
#
#   MASTER_ADDR=node1 NODES=2 NODE_RANK=0 experiments/launch/torchrun.sh data=cifar10 hydra.run.dir=/shared/a   # on node1
#   MASTER_ADDR=node1 NODES=2 NODE_RANK=1 experiments/launch/torchrun.sh data=cifar10 hydra.run.dir=/shared/a   # on node2
#
# PROCESSES: of each machine, one for each GPU by default. PORT: a free one of the first machine.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || true

# resume=auto: after a stop, the same commands go on from the last checkpoint.
# Stop it with SIGTERM or Ctrl-C on any machine; SIGUSR1 would end torchrun alone, and its processes would go on.
exec torchrun \
    --nnodes="${NODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --nproc-per-node="${PROCESSES:-$((gpus > 0 ? gpus : 1))}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    "$checkout/train.py" trainer=ddp resume=auto "$@"

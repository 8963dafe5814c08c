#!/usr/bin/env bash
# Train with several processes on one or more machines.
#   tools/dist_train.sh CONFIG NUM_PROCESSES [arguments of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
# PYTHON names the interpreter, such as .venv/bin/python.
set -eu

config=$1
num_processes=$2
shift 2

"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$num_processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"

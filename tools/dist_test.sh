#!/usr/bin/env bash
# Evaluate with several processes on one or more machines.
#   tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [arguments of
#   tools/test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
# PYTHON names the interpreter, such as .venv/bin/python.
set -eu

config=$1
checkpoint=$2
num_processes=$3
shift 3

"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$num_processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"

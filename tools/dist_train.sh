#!/usr/bin/env bash
# Train with several processes on one or more machines.
#   bash tools/dist_train.sh CONFIG NUM_PROCESSES [arguments of tools/train.py]
# Examples:
#   bash tools/dist_train.sh CONFIG 8 --amp
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node1 bash tools/dist_train.sh CONFIG 8
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
# PYTHON names the interpreter, such as .venv/bin/python.
set -eu

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
}
case "${1:-}" in -h | --help) usage && exit ;; esac
if [ $# -lt 2 ]; then usage >&2 && exit 2; fi

config=$1
num_processes=$2
shift 2
case $num_processes in
    [1-9]* | auto | cpu | gpu) ;;
    *) echo "error: $num_processes is not a number of processes" >&2; exit 2 ;;
esac

"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$num_processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"

#!/usr/bin/env bash
# Evaluate with several processes on one or more machines.
#   bash tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [arguments of
#   tools/test.py]
# Examples:
#   bash tools/dist_test.sh CONFIG work_dirs/NAME/epoch_12.pth 8 --tta
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
# PYTHON names the interpreter, such as .venv/bin/python.
set -eu

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
}
case "${1:-}" in -h | --help) usage && exit ;; esac
if [ $# -lt 3 ]; then usage >&2 && exit 2; fi

config=$1
checkpoint=$2
num_processes=$3
shift 3
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
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"

#!/usr/bin/env bash
# Train under slurm, one process for each GPU.
#   bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of
#   tools/train.py]
# Examples:
#   GPUS=16 bash tools/slurm_train.sh gpu hatnet CONFIG work_dirs/hatnet
# GPUS (8 unless set), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS shape
# the job; PYTHON names the interpreter, such as .venv/bin/python.
set -eu

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
}
case "${1:-}" in -h | --help) usage && exit ;; esac
if [ $# -lt 4 ]; then usage >&2 && exit 2; fi

partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
if [ "$gpus" -lt "$gpus_per_node" ]; then gpus_per_node=$gpus; fi

# SRUN_ARGS holds several arguments.
# shellcheck disable=SC2086
srun --partition="$partition" \
    --job-name="$job_name" \
    --gres=gpu:"$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" \
    --work-dir "$work_dir" \
    --launcher slurm "$@"

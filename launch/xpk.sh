#!/usr/bin/env bash
# Submits a run to a cluster of xpk (https://github.com/AI-Hypercomputer/xpk).
#
#   launch/xpk.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --tpu=v5p-256 --slices=2 --cluster=my-cluster --workdir=/mnt/glide/runs/base64 --storage=glide
#
# --tpu      a slice, by the cloud's name or by its shape
# --slices   number of slices (default: 1)
# --cluster --zone --project   of the cluster
# --storage  an xpk storage with the workdir, mounted in the pods. To attach a bucket as a
#            storage, once:
#              xpk storage attach glide --cluster=my-cluster --type=gcsfuse --bucket=my-bucket \
#                --mount-point=/mnt/glide --readonly=false --auto-mount=false --size=1 \
#                --mount-options=implicit-dirs,rename-dir-limit=200000,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0
#
# xpk adds the checkout to a Python image; the environment is created when a pod starts. xpk
# restarts the run after the exit codes 42 and 127 to 255; 127 (a missing command) is xpk's
# addition. Pods have ten minutes to save.
#
#   launch/xpk.sh status --name=base64 --cluster=my-cluster
#   launch/xpk.sh stop --name=base64 --cluster=my-cluster
#
# stop deletes the workload; its pods save a checkpoint before they are deleted.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$ROOT/launch/code.sh"
. "$ROOT/launch/tpu.sh"

read_flags "tpu slices cluster zone project storage" "cluster zone project" "$@"
where=("--cluster=$cluster" ${zone:+"--zone=$zone"} ${project:+"--project=$project"})
if [ -n "$action" ]; then
  check_name "$CLOUD_NAME" "$CLOUD_NAME_RULE"
  need cluster my-cluster
  need_program xpk "install it (pip install xpk)"
  control xpk "among the workloads of the cluster $cluster" "set -euo pipefail
# xpk lists every workload, with other text.
xpk workload list $(quoted "${where[@]}") | sed -n '/^$name /p'" \
    "xpk workload delete $(quoted "${where[@]}") --workload=$name"
fi
slices="${slices:-1}"
check_run "$CLOUD_NAME" "$CLOUD_NAME_RULE" tpu v5p-256 cluster my-cluster \
  workdir "/mnt/glide/runs/${name:-base64}"
check_number slices 1
read_tpu
[ -n "$gke_accelerator" ] || die "--tpu=$tpu: GKE has no $chip; use launch/tpu_vm.sh or launch/queued_resource.sh"
[[ "$workdir" != *://* ]] ||
  die "--workdir=$workdir: xpk mounts buckets as storages; attach one (see --help), and use a folder under its mount point with --storage"
check_workdir absolute
tpu_type="$accelerator"
[ -n "$is_usual_shape" ] && [ "$chip" != tpu7x ] || tpu_type="${accelerator%-*}-$shape"
need_program xpk "install it (pip install xpk)"

check_settings $((devices * slices)) "$slices"
choose_code
host_command "--chip=$chip" "--slices=$slices" --grace=570
script="$(render xpk.sh "ROOT=$(quoted "$ROOT")" "NAME=$name" "TPU=$tpu_type" \
  "SLICES=$slices" "RESTARTS=$restarts" "WHERE=$(quoted "${where[@]}")" \
  "EXTRA=$extra_code" \
  "STORAGE=${storage:+  --storage=$(quoted "$storage") \\}" \
  "COMMAND=$(quoted "${command[@]}")")"
if [ -n "$dry_run" ]; then
  show "bash, with this script" "$script"
  exit
fi
bash -c "$script"

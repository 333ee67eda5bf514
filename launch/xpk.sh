#!/usr/bin/env bash
# Submits a run to a cluster that xpk made (https://github.com/AI-Hypercomputer/xpk).
#
#   launch/xpk.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --tpu=v5p-256 --slices=2 --cluster=my-cluster --workdir=/mnt/glide/runs/base64 --storage=glide
#
# --tpu      a slice by the cloud's name or its shape
# --slices   how many (1)
# --cluster --zone --project   where
# --storage  an xpk storage that is mounted in the pods, and holds the workdir. A bucket
#            becomes one, once, by
#              xpk storage attach glide --cluster=my-cluster --type=gcsfuse --bucket=my-bucket \
#                --mount-point=/mnt/glide --readonly=false --auto-mount=false --size=1 \
#                --mount-options=implicit-dirs,rename-dir-limit=200000,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0
#
# xpk puts the checkout into an image, on top of Python's; the environment is made when a
# pod starts. xpk itself restarts the run after the codes 42 and 127 to 255: 127 (a command
# that is not there) is its own addition. Pods have ten minutes to save.
#
#   launch/xpk.sh status --name=base64 --cluster=my-cluster
#   launch/xpk.sh stop --name=base64 --cluster=my-cluster
#
# stop deletes the workload: its pods are told to save, and are gone after it.
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
# xpk lists every workload, among words of its own.
xpk workload list $(quoted "${where[@]}") | sed -n '/^$name /p'" \
    "xpk workload delete $(quoted "${where[@]}") --workload=$name"
fi
slices="${slices:-1}"
check_run "$CLOUD_NAME" "$CLOUD_NAME_RULE"
need tpu v5p-256 cluster my-cluster workdir "/mnt/glide/runs/$name"
check_number slices 1
read_tpu
[ -n "$gke_accelerator" ] || die "--tpu=$tpu: GKE has no $chip; use launch/tpu_vm.sh or launch/queued_resource.sh"
[[ "$workdir" != *://* ]] ||
  die "--workdir=$workdir: xpk mounts buckets as storages; make one (see --help) and name a folder under its mount point, with --storage"
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

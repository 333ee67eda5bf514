#!/usr/bin/env bash
# Runs on all hosts of an existing TPU VM slice.
#
#   gcloud compute tpus tpu-vm create my-slice --zone=us-east5-a \
#       --accelerator-type=v5p-64 --version=v2-alpha-tpuv5
#   launch/tpu_vm.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --tpu=v5p-64 --slice=my-slice --zone=us-east5-a --workdir=gs://my-bucket/runs/base64
#
# --tpu     type of the slice, for the compiler flags
# --slice   name of the slice; default: --name
# --zone --project   of the slice; default: gcloud's settings
#
# The checkout is copied to every host, and the run is started in the background, independent
# of the connection. Each host restarts it after retryable exit codes, but not after a reboot
# or the loss of the slice; launch/queued_resource.sh does that as well. Images of TPU VMs have
# Python 3.10; launch/environment.sh installs a supported one on each host.
#
#   launch/tpu_vm.sh status --name=base64 --slice=my-slice --zone=us-east5-a
#   launch/tpu_vm.sh stop --name=base64 --slice=my-slice --zone=us-east5-a
#
# stop does not delete the slice, which continues to incur cost.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$ROOT/launch/code.sh"
. "$ROOT/launch/tpu.sh"

read_flags "tpu slice zone project" "slice zone project" "$@"
where=(${zone:+"--zone=$zone"} ${project:+"--project=$project"})
if [ -n "$action" ]; then
  check_name "$CLOUD_NAME" "$CLOUD_NAME_RULE"
  need_program gcloud "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)"
  control_script() {
    render tpu_vm_control.sh "SLICE=${slice:-$name}" "NAME=$name" "ACTION=$1" \
      "WHERE=$(quoted ${where[@]+"${where[@]}"})"
  }
  control gcloud "on the hosts of ${slice:-$name}" "$(control_script status)" "$(control_script stop)"
fi
check_run "$CLOUD_NAME" "$CLOUD_NAME_RULE" tpu v5p-64 workdir "gs://BUCKET/runs/${name:-base64}"
read_tpu
check_workdir absolute gs s3
need_program gcloud "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)"

check_settings "$devices" 1
choose_code
host_command "--chip=$chip" --slices=1 "--restarts=$restarts" --grace=570
script="$(render tpu_vm.sh "ROOT=$(quoted "$ROOT")" "SLICE=${slice:-$name}" "NAME=$name" \
  "WHERE=$(quoted ${where[@]+"${where[@]}"})" \
  "EXTRA=$extra_code" \
  "COMMAND=$(quoted "${command[@]}")" "LOGS=$workdir/logs")"
if [ -n "$dry_run" ]; then
  show "bash, with this script" "$script"
  exit
fi
bash -c "$script"

#!/usr/bin/env bash
# Runs on a TPU VM slice that is there already, on all of its hosts.
#
#   gcloud compute tpus tpu-vm create my-slice --zone=us-east5-a \
#       --accelerator-type=v5p-64 --version=v2-alpha-tpuv5
#   launch/tpu_vm.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --tpu=v5p-64 --slice=my-slice --zone=us-east5-a --workdir=gs://my-bucket/runs/base64
#
# --tpu     what the slice is, for the compiler's flags
# --slice   its name; --name unless given
# --zone --project   where it is; gcloud's own settings unless given
#
# The checkout is copied to every host and the run started there in the background, so
# that it outlives the connection. Each host starts it again by itself, but not after a
# reboot or when the slice is taken away: launch/queued_resource.sh does that. Images of TPU
# VMs have Python 3.10; launch/environment.sh installs a supported one on each host.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$ROOT/launch/tpu.sh"

read_flags "tpu slice zone project" "$@"
check_run "$CLOUD_NAME" "$CLOUD_NAME_RULE"
need tpu v5p-64 workdir "gs://BUCKET/runs/$name"
read_tpu
check_workdir absolute gs s3
need_program gcloud "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)"

check_settings "$devices" 1
host_command "--chip=$chip" --slices=1 "--restarts=$restarts"
where=(${zone:+"--zone=$zone"} ${project:+"--project=$project"})
script="$(render tpu_vm.sh "ROOT=$(quoted "$ROOT")" "SLICE=${slice:-$name}" "NAME=$name" \
  "WHERE=$(quoted ${where[@]+"${where[@]}"})" \
  "COMMAND=$(quoted "${command[@]}")" "LOGS=$workdir/logs")"
if [ -n "$dry_run" ]; then
  show "bash, with this script" "$script"
  exit
fi
bash -c "$script"

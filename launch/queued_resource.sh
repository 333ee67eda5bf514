#!/usr/bin/env bash
# Asks Cloud TPU for one or more slices, trains on them, and gives them back.
#
#   launch/queued_resource.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --tpu=v5p-256 --slices=2 --zone=us-east5-a --workdir=gs://my-bucket/runs/base64 --capacity=spot
#
# --tpu      the cloud's name of a slice
# --slices   how many, joined by the data centre's network (1)
# --runtime  the VM image; the chip's own unless given
# --capacity spot, reserved or on_demand (on_demand)
# --service_account  of the hosts; it must read and write the bucket and delete the
#            resource. The project's default account unless given
# --on_failure  keep or delete the slices where a host cannot be prepared, i.e. --setup, the
#            bucket, Python or the package fails (keep). What is kept costs until you delete it
# --zone --project   gcloud's own settings unless given
#
# Stays in the foreground and watches: slices that are taken away are asked for again
# (--restarts counts these). The hosts start the run at each boot and after the exit codes
# that are retryable; when it has ended for good, the first of them deletes the resource.
# After Ctrl-C the run goes on unwatched; the same command watches it again. A host
# that cannot be prepared ends the watching with code 5; its log is WORKDIR/logs/HOST.log.
#
#   launch/queued_resource.sh status --name=base64 --zone=us-east5-a
#   launch/queued_resource.sh stop --name=base64 --zone=us-east5-a
#
# stop lets a run that trains save itself, after which its first host gives the slices back;
# slices without a run on them are given back at once.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$ROOT/launch/code.sh"
. "$ROOT/launch/restart.sh"
. "$ROOT/launch/tpu.sh"

read_flags "tpu slices runtime capacity on_failure service_account zone project" "zone project" "$@"
where=(${zone:+"--zone=$zone"} ${project:+"--project=$project"})
if [ -n "$action" ]; then
  check_name "$CLOUD_NAME" "$CLOUD_NAME_RULE"
  need_program gcloud "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)"
  control_script() {
    render queued_resource_control.sh "NAME=$name" "DO=$1" \
      "WHERE=$(quoted ${where[@]+"${where[@]}"})"
  }
  control gcloud "among the queued resources" "$(control_script show_run)" "$(control_script stop_run)"
fi
slices="${slices:-1}" capacity="${capacity:-on_demand}" on_failure="${on_failure:-keep}"
check_run "$CLOUD_NAME" "$CLOUD_NAME_RULE"
need tpu v5p-256 workdir "gs://BUCKET/runs/$name"
check_number slices 1
read_tpu
need_usual_shape
# The code travels through the bucket, and a local disk goes with its slice.
check_workdir gs
case "$capacity" in
  on_demand) capacity_flag="" ;;
  spot | reserved) capacity_flag="--$capacity" ;;
  *) die "--capacity=$capacity is not one of spot, reserved, on_demand" ;;
esac
runtime="${runtime:-$tpu_runtime}"
case "$on_failure" in
  keep | delete) ;;
  *) die "--on_failure=$on_failure is not one of keep, delete" ;;
esac
need_program gcloud "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)"

check_settings $((devices * slices)) "$slices"
choose_code
host_command "--chip=$chip" "--slices=$slices" "--restarts=$restarts"
# Each host that cannot be prepared leaves its name here.
marks="$workdir/launch/$name.failed"
keep="$([ "$on_failure" = keep ] && echo yes || echo no)"
nodes="--node-id=$name"
[ "$slices" -eq 1 ] || nodes="--node-count=$slices --node-prefix=$name"
account="${service_account:+--service-account=$(quoted "$service_account")}"
startup="$(render startup.sh "NAME=$name" "CODE=$workdir/launch/$name.tar.gz" \
  "MARKS=$marks" "FAILED=$PREPARATION_FAILED" "KEEP=$keep" \
  "COMMAND=$(quoted "${command[@]}")")"
script="$(render queued_resource.sh "ROOT=$(quoted "$ROOT")" "NAME=$name" "NODES=$nodes" \
  "CODE=$workdir/launch/$name.tar.gz" "WHERE=$(quoted ${where[@]+"${where[@]}"})" \
  "EXTRA=$extra_code" "ACCELERATOR=$accelerator" \
  "RUNTIME=$(quoted "$runtime")" "CAPACITY=${capacity_flag:+    $capacity_flag \\}" \
  "ACCOUNT=${account:+    $account \\}" "RESTARTS=$restarts" "LOGS=$workdir/logs" \
  "MARKS=$marks" "FAILED=$PREPARATION_FAILED" "KEEP=$keep")"
if [ -n "$dry_run" ]; then
  show "bash, with this script and \$startup, the file below" "$script"
  show "\$startup, which each host runs at boot" "$startup"
  exit
fi
startup_file="$(mktemp)"
trap 'rm "$startup_file"' EXIT
printf '%s\n' "$startup" >"$startup_file"
startup="$startup_file" bash -c "$script"

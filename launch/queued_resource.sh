#!/usr/bin/env bash
# Requests one or more slices from Cloud TPU, trains on them, and releases them.
#
#   launch/queued_resource.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --tpu=v5p-256 --slices=2 --zone=us-east5-a --workdir=gs://my-bucket/runs/base64 --capacity=spot
#
# --tpu      a slice, by the cloud's name
# --slices   number of slices, connected by DCN (default: 1)
# --runtime  the VM image; default: the chip's
# --capacity spot, reserved or on_demand (default: on_demand)
# --service_account  of the hosts; it must be able to read and write the bucket and to delete
#            the resource. Default: the project's
# --on_failure  keep or delete the slices if a host cannot be prepared, i.e. --setup, the
#            bucket, Python or the package fails (default: keep). Kept slices incur cost
# --zone --project   default: gcloud's settings
#
# Runs in the foreground and monitors the resource: lost slices are requested again, up to
# --restarts times. The hosts start the run at each boot and after retryable exit codes; when
# it has finished, the first host deletes the resource. After Ctrl-C the run continues without
# monitoring; the same command resumes it. If a host cannot be prepared, the exit code is 5;
# the host's log is WORKDIR/logs/HOST.log.
#
#   launch/queued_resource.sh status --name=base64 --zone=us-east5-a
#   launch/queued_resource.sh stop --name=base64 --zone=us-east5-a
#
# stop makes a run save a checkpoint, after which its first host releases the slices; slices
# without a run are released at once.
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
check_run "$CLOUD_NAME" "$CLOUD_NAME_RULE" tpu v5p-256 workdir "gs://BUCKET/runs/${name:-base64}"
check_number slices 1
read_tpu
need_usual_shape
# The code is copied through the bucket, and local disks are lost with their slice.
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
host_command "--chip=$chip" "--slices=$slices" "--restarts=$restarts" --grace=570
# Each host that cannot be prepared creates a file here.
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

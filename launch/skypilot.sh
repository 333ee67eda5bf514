#!/usr/bin/env bash
# Submits a run to SkyPilot as a managed job, on any cloud with the machines.
#
#   launch/skypilot.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --accelerators=H100:8 --chip=h100 --nodes=4 --workdir=s3://my-bucket/runs/base64 --capacity=spot \
#       --setup='sudo apt-get install -y s3fs'
#   launch/skypilot.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --tpu=v5p-64 --workdir=gs://my-bucket/runs/base64
#
# --accelerators --nodes --chip   GPUs per node in SkyPilot's notation, number of nodes
#              (default: 1), and chip of the compiler flags
# --tpu        a TPU slice instead, by the cloud's name
# --infra      a cloud, region or context, such as aws/us-east-1
# --capacity   spot or on_demand (default: on_demand)
#
# With --mount SkyPilot mounts a gs:// workdir, and s3fs an s3:// workdir, which --setup must
# install: SkyPilot's own mounts of S3 either do not support appending or delay the visibility
# of files to other nodes. SkyPilot has no limit of restarts, so --restarts is not supported.
# It deletes the machines after a failure; the log of each host is WORKDIR/logs/HOST.log.
#
#   launch/skypilot.sh status --name=base64
#   launch/skypilot.sh stop --name=base64
#
# stop cancels the managed job. SkyPilot deletes its machines without a guaranteed time to
# save: the run may resume from an earlier checkpoint (checkpoint.every_steps).
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$ROOT/launch/code.sh"
. "$ROOT/launch/tpu.sh"

for argument in "$@"; do
  [[ "$argument" != --restarts=* ]] ||
    die "$argument: SkyPilot restarts without a limit; leave it out"
done
read_flags "accelerators nodes chip tpu infra capacity" "" "$@"
if [ -n "$action" ]; then
  check_name "$CLOUD_NAME" "$CLOUD_NAME_RULE"
  need_program sky "install it (pip install skypilot)"
  control sky "among SkyPilot's managed jobs" "set -euo pipefail
# The row of the table with the name in one of its columns.
sky jobs queue --skip-finished | awk '{ for (i = 1; i <= NF; i++) if (\$i == \"$name\") { print; next } }'" \
    "sky jobs cancel --yes --name=$name"
fi
nodes="${nodes:-1}" capacity="${capacity:-on_demand}"
chips=()
[ -n "$tpu" ] || chips=(accelerators H100:8 chip h100)
check_run "$CLOUD_NAME" "$CLOUD_NAME_RULE" workdir "gs://BUCKET/runs/${name:-base64}" \
  ${chips[@]+"${chips[@]}"}
check_number nodes 1
check_workdir absolute gs s3
case "$capacity" in
  on_demand) spot=false ;;
  spot) spot=true ;;
  *) die "--capacity=$capacity is not one of spot, on_demand" ;;
esac
rendezvous="export GLIDE_JAX_COORDINATOR=auto"
if [ -n "$tpu" ]; then
  [ -z "$accelerators$chip" ] && [ "$nodes" -eq 1 ] ||
    die "--tpu=$tpu is one slice with all its hosts; leave out --accelerators, --chip and --nodes"
  read_tpu
  need_usual_shape
  accelerators="tpu-$accelerator" slices=1
else
  check_chip
  [[ "$accelerators" =~ ^[A-Za-z0-9._-]+(:[1-9][0-9]{0,2})?$ ]] ||
    die "--accelerators=$accelerators is not KIND or KIND:NUMBER; use the GPUs per node, such as H100:8"
  gpus="${BASH_REMATCH[1]#:}"
  kind="${accelerators%%:*}"
  [[ "${kind,,}" == "${chip%%-*}"* ]] ||
    die "--accelerators=$accelerators is not --chip=$chip; use the same kind for both"
  devices=$((nodes * ${gpus:-1})) slices="" tpu_runtime=""
  rendezvous='export GLIDE_JAX_COORDINATOR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):8476"
  export GLIDE_JAX_HOSTS="$(echo "$SKYPILOT_NODE_IPS" | paste -sd,)"
  export GLIDE_JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" GLIDE_JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"'
fi
bucket=""
if is_mounted gs; then
  path="${workdir#gs://}"
  bucket="${path%%/*}"
  workdir="/mnt/$path" mount=""
fi
need_program sky "install it (pip install skypilot)"

check_settings "$devices" "$slices"
choose_code
host_command "--chip=$chip"
task="$(render skypilot.yaml "NAME=$name" "NODES=$nodes" \
  "ACCELERATORS=$accelerators" "RUNTIME=${tpu_runtime:+  accelerator_args:
    runtime_version: $tpu_runtime}" "SPOT=$spot" "INFRA=${infra:+  infra: $infra}" \
  "RENDEZVOUS=  $rendezvous" "COMMAND=$(quoted "${command[@]}")" \
  "MOUNTS=${bucket:+file_mounts:
  /mnt/$bucket:
    source: gs://$bucket
    mode: MOUNT}")"
script="$(render skypilot.sh "ROOT=$(quoted "$ROOT")" "NAME=$name" \
  "EXTRA=$extra_code")"
if [ -n "$dry_run" ]; then
  show "bash, with this script and \$task, the file below" "$script"
  show "\$task" "$task"
  exit
fi
file="$(mktemp --suffix=.yaml)"
trap 'rm "$file"' EXIT
printf '%s\n' "$task" >"$file"
task="$file" bash -c "$script"

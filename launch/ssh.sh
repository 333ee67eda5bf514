#!/usr/bin/env bash
# Runs on hosts that ssh reaches without a password, with one process per host.
#
#   launch/ssh.sh --config=experiments/configs/base64.py:icons --name=base64 \
#       --hosts=alice@gpu1,alice@gpu2 --chip=a100-80gb --workdir=/nfs/runs/base64
#
# --hosts    comma-separated; the first is the coordinator
# --chip     chip of the compiler flags, which `glide flags --chip=...` shows (default: cpu)
# --gpus     GPUs of each host, for the check of mesh and batch; required for GPU chips
# --port     port of the coordinator (default: 8476)
# --coordinator  address of the first host for the others; default: its name in --hosts
# --folder   folder of the copied checkout on each host (default: glide_jax, in the home folder)
#
# Runs in the foreground and shows the output of all hosts; use it under tmux. Ctrl-C stops
# the run, which saves a checkpoint. After a retryable exit code, such as that of a lost
# connection (255), the run is restarted on all hosts.
#
#   launch/ssh.sh status --name=base64 --hosts=alice@gpu1,alice@gpu2
#   launch/ssh.sh stop --name=base64 --hosts=alice@gpu1,alice@gpu2
#
# Both need --folder if the run was started with it. stop can be called on any machine that
# reaches the hosts; the launcher of the run then exits as well.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$ROOT/launch/code.sh"

check_hosts() {
  local host seen=,
  check_path folder
  need hosts alice@gpu1,alice@gpu2
  [[ "$hosts" =~ ^[A-Za-z0-9@._-]+(,[A-Za-z0-9@._-]+)*$ ]] ||
    die "--hosts=$hosts is not a list of hosts; separate names for ssh by commas, such as alice@gpu1,gpu2"
  for host in ${hosts//,/ }; do
    [[ "$seen" != *",$host,"* ]] || die "--hosts has $host twice; list each host once"
    seen+="$host,"
  done
}

read_flags "hosts chip gpus port coordinator folder" "hosts folder" "$@"
folder="${folder:-glide_jax}"
if [ -n "$action" ]; then
  check_name "$HOST_NAME" "$HOST_NAME_RULE"
  check_hosts
  need_program ssh "install OpenSSH's client"
  control ssh "on ${hosts//,/, }" "$(render ssh_control.sh "HOSTS=${hosts//,/ }" \
    "FOLDER=$folder" "NAME=$name" ACTION=status)" "$(render ssh_control.sh \
    "HOSTS=${hosts//,/ }" "FOLDER=$folder" "NAME=$name" ACTION=stop)"
fi
chip="${chip:-cpu}" port="${port:-8476}"
check_run "$HOST_NAME" "$HOST_NAME_RULE" hosts alice@gpu1,alice@gpu2 \
  workdir "/nfs/runs/${name:-base64}"
check_hosts
check_chip
if [ "$chip" = cpu ]; then
  [ -z "$gpus" ] || die "--gpus=$gpus: --chip=cpu has no GPUs; leave --gpus out, or set the chip"
elif [[ "$chip" == v[0-9]* || "$chip" == tpu* ]]; then
  [ -z "$gpus" ] || die "--gpus=$gpus: --chip=$chip is a TPU; leave --gpus out"
  [ -n "$nocheck" ] ||
    echo "ssh.sh: the settings are not checked, because the number of TPU chips of a host is not known" >&2
  nocheck=yes
else
  need gpus 8
  check_number gpus 1
fi
[[ "$coordinator" =~ ^[A-Za-z0-9._-]*$ ]] ||
  die "--coordinator=$coordinator is not a host name; use the address of the first host for the others, such as gpu1"
check_number port 1
check_workdir absolute gs s3
need_program ssh "install OpenSSH's client"
need_program rsync "install it"

first="${hosts%%,*}"
IFS=, read -ra each_host <<<"$hosts"
check_settings $((${#each_host[@]} * ${gpus:-1}))
choose_code
host_command "--chip=$chip" --grace=570
script="$(render ssh.sh "ROOT=$(quoted "$ROOT")" "HOSTS=${hosts//,/ }" "NAMES=$hosts" "FOLDER=$(quoted "$folder")" \
  "COORDINATOR=${coordinator:-${first#*@}}:$port" "RESTARTS=$restarts" \
  "NAME=$name" "EXTRA=$extra_code" \
  "COMMAND=$(quoted "${command[@]}")")"
if [ -n "$dry_run" ]; then
  show "bash, with this script" "$script"
  exit
fi
bash -c "$script"

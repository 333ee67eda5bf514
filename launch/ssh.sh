#!/usr/bin/env bash
# Runs on plain hosts that ssh reaches without a password, one process on each.
#
#   launch/ssh.sh --config=experiments/configs/base64.py:emoji --name=base64 \
#       --hosts=alice@gpu1,alice@gpu2 --chip=a100-80gb --workdir=/nfs/runs/base64
#
# --hosts    the first is where the processes meet
# --chip     which compiler flags: `glide flags --chip=...` shows them (cpu)
# --gpus     GPUs of each host, for the check of mesh and batch; needed for GPU chips
# --port     where the processes meet (8476)
# --coordinator  the first host as the others reach it; its name in --hosts unless given
# --folder   where the checkout is copied to on each host (glide_jax, in the home folder)
#
# Stays in the foreground and shows what all hosts print; leave it running under tmux.
# Ctrl-C ends it, and the run saves itself on all hosts. After a retryable exit
# code the run is started again on all of them; a lost connection is such a code (255).
#
#   launch/ssh.sh status --name=base64 --hosts=alice@gpu1,alice@gpu2
#   launch/ssh.sh stop --name=base64 --hosts=alice@gpu1,alice@gpu2
#
# Both need --folder as well where it was given. stop can be called on any machine that
# reaches the hosts; the launcher that started the run ends with it.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$ROOT/launch/code.sh"

check_hosts() {
  local host seen=,
  check_path folder
  need hosts alice@gpu1,alice@gpu2
  [[ "$hosts" =~ ^[A-Za-z0-9@._-]+(,[A-Za-z0-9@._-]+)*$ ]] ||
    die "--hosts=$hosts is not a list of hosts; name them as ssh does, with commas between, such as alice@gpu1,gpu2"
  for host in ${hosts//,/ }; do
    [[ "$seen" != *",$host,"* ]] || die "--hosts names $host twice; name each host once"
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
check_run "$HOST_NAME" "$HOST_NAME_RULE"
check_hosts
need workdir "/nfs/runs/$name"
check_chip
if [ "$chip" = cpu ]; then
  [ -z "$gpus" ] || die "--gpus=$gpus: --chip=cpu has none; leave --gpus out, or name the chip"
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
  die "--coordinator=$coordinator is not a host name; name the first one as the others reach it, such as gpu1"
check_number port 1
check_workdir absolute gs s3
need_program ssh "install OpenSSH's client"
need_program rsync "install it"

first="${hosts%%,*}"
IFS=, read -ra each_host <<<"$hosts"
check_settings $((${#each_host[@]} * ${gpus:-1}))
choose_code
host_command "--chip=$chip"
script="$(render ssh.sh "ROOT=$(quoted "$ROOT")" "HOSTS=${hosts//,/ }" "NAMES=$hosts" "FOLDER=$(quoted "$folder")" \
  "COORDINATOR=${coordinator:-${first#*@}}:$port" "RESTARTS=$restarts" \
  "NAME=$name" "EXTRA=$extra_code" \
  "COMMAND=$(quoted "${command[@]}")")"
if [ -n "$dry_run" ]; then
  show "bash, with this script" "$script"
  exit
fi
bash -c "$script"

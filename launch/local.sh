#!/usr/bin/env bash
# Trains, samples or evaluates with several processes on this machine, with the same code as on
# several hosts:
#
#   launch/local.sh --processes=2 --devices=4 -- \
#       glide train --config=experiments/configs/base64.py:tiny --workdir=runs/base
#   launch/local.sh --processes=2 --devices=4 -- \
#       glide evaluate --base=runs/base/bundle --captions_of=shapes:quickstart ...
#
# --processes  number of processes (default: 2)
# --devices    number of emulated CPU devices per process; default: the machine's devices
# --port       port of process 0 (default: a free one)
# --logs       folder for one log per process (default: a new one under /tmp); the output of
#              process 0 is also shown on the terminal
#
# Signals are sent to all processes. If one fails, the others are stopped. Exit code: 0 if all
# succeed, else that of the first failed process; codes that are not retryable take precedence
# over 42 (stopped by a signal, all saved) and 128 and above (lost).
set -euo pipefail
. "$(dirname "$0")/restart.sh" # is_retryable
GRACE_SECS=10 # for the other processes to report why they exit

die() {
  echo "local.sh: $*" >&2
  exit 2
}

processes=2 devices="" port="" logs=""
given=" "
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --processes=* | --devices=* | --port=* | --logs=?*)
      name="${1%%=*}"
      [[ "$given" != *" $name "* ]] || die "$name is given twice; give it once"
      given+="$name "
      printf -v "${name#--}" '%s' "${1#*=}"
      [[ "$name" == --logs || "${1#*=}" =~ ^[1-9][0-9]{0,4}$ ]] ||
        die "$1 is not a whole number from 1 to 99999"
      ;;
    --help | -h) sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" && exit ;;
    status | stop) die "$1 is not an action of local.sh, which runs in the foreground; press Ctrl-C to stop the run" ;;
    [!-]*) die "$1 is not a flag; put -- before the command" ;;
    *) die "$1 is not a flag; use --processes=N --devices=N --port=N --logs=DIR -- COMMAND" ;;
  esac
  shift
done
[ $# -gt 1 ] || die "the command is missing; e.g. -- glide train --config=... --workdir=..."
shift

# Without an activated environment, .venv of launch/test.sh and quickstart.sh is used.
if [ "$1" = glide ] && ! command -v glide >/dev/null; then
  glide="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/glide"
  [ -x "$glide" ] || die "glide is not installed; activate its environment, or pip install -e ."
  set -- "$glide" "${@:2}"
fi
while [ -z "$port" ]; do
  port=$((20000 + RANDOM % 12000)) # below the range of client ports
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then port=""; fi
done
logs="${logs:-$(mktemp -d "${TMPDIR:-/tmp}/glide_jax.XXXXXX")}"
mkdir -p "$logs" 2>/dev/null || die "--logs=$logs cannot be created; use another folder"
echo "local.sh: $processes processes; logs in $logs" >&2

export GLIDE_JAX_COORDINATOR="127.0.0.1:$port" GLIDE_JAX_NUM_PROCESSES="$processes"
if [ -n "$devices" ]; then
  # XLA's thread pool has one thread per core by default. Devices that wait in a collective
  # would block those that they wait for; NPROC sets the size of the pool.
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices" NPROC=$((4 * devices))
fi

running=()
send() { kill "-$1" ${running[@]+"${running[@]}"} 2>/dev/null || true; }
# Ctrl-C is forwarded as SIGTERM, on which the run saves a checkpoint.
trap 'send TERM' TERM INT HUP
trap 'send KILL' EXIT

for ((id = 0; id < processes; id++)); do
  export GLIDE_JAX_PROCESS_ID="$id"
  if [ "$id" -eq 0 ]; then
    # The tee ignores signals, so that the log is complete.
    "$@" > >(trap '' TERM INT HUP && exec tee "$logs/process0.log") 2>&1 &
  else
    "$@" >"$logs/process$id.log" 2>&1 &
  fi
  running[id]=$!
done

code=0 deadline=""
while [ ${#running[@]} -gt 0 ]; do
  sleep 0.1 || true
  for id in "${!running[@]}"; do
    if kill -0 "${running[id]}" 2>/dev/null; then continue; fi
    status=0
    wait "${running[id]}" || status=$?
    unset "running[id]"
    [ "$status" -ne 0 ] || continue
    if [ "$code" -eq 0 ] || { is_retryable "$code" && ! is_retryable "$status"; }; then
      code="$status"
    fi
    if [ "$status" -ne 42 ]; then
      [ "$id" -eq 0 ] || tail -n 3 "$logs/process$id.log" | sed "s/^\(\[$id\] \)*/[$id] /" >&2
      echo "local.sh: process $id exited with code $status" >&2
      if [ -z "$deadline" ]; then deadline=$((SECONDS + GRACE_SECS)) && send TERM; fi
    fi
  done
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then send KILL; fi
done
exit "$code"

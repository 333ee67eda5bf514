#!/usr/bin/env bash
# Trains with several processes on this machine, over the same code path as on many
# hosts:
#
#   launch/local.sh --processes=2 --devices=4 -- \
#       glide train --config=experiments/configs/base64.py:tiny --workdir=runs/base
#
# --processes  how many (2)
# --devices    fake CPU devices of each; without it each sees the machine's own
# --port       where process 0 is met (any that is free)
# --logs       folder for one log a process (a new one under /tmp); process 0 is also
#              heard on the terminal
#
# Signals go to all processes. When one fails, all are ended. Exit code: 0 if all ended
# well, else of the first that failed, where one that is worth no restart outranks 42
# (stopped by a signal, all saved) and 128 up (lost).
set -euo pipefail
GRACE_SECS=10 # for the others to say why they end as well

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
    status | stop) die "$1 is not an action of local.sh, which stays in the foreground; Ctrl-C stops the run" ;;
    [!-]*) die "$1 is not a flag; put -- before the command" ;;
    *) die "$1 is not a flag; use --processes=N --devices=N --port=N --logs=DIR -- COMMAND" ;;
  esac
  shift
done
[ $# -gt 1 ] || die "no command; give one, e.g. -- glide train --config=... --workdir=..."
shift

# Without an activated environment, the one that launch/test.sh and quickstart.sh made.
if [ "$1" = glide ] && ! command -v glide >/dev/null; then
  glide="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/glide"
  [ -x "$glide" ] || die "there is no glide here; activate its environment, or pip install -e ."
  set -- "$glide" "${@:2}"
fi
while [ -z "$port" ]; do
  port=$((20000 + RANDOM % 12000)) # below the ports that clients are given
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then port=""; fi
done
logs="${logs:-$(mktemp -d "${TMPDIR:-/tmp}/glide_jax.XXXXXX")}"
mkdir -p "$logs" 2>/dev/null || die "--logs=$logs cannot be made; name another folder"
echo "local.sh: $processes processes; logs in $logs" >&2

export GLIDE_JAX_COORDINATOR="127.0.0.1:$port" GLIDE_JAX_NUM_PROCESSES="$processes"
if [ -n "$devices" ]; then
  # With a pool of one thread a core, devices that wait for each other in a collective
  # starve those that they wait for; NPROC sizes it.
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices" NPROC=$((4 * devices))
fi

running=()
send() { kill "-$1" ${running[@]+"${running[@]}"} 2>/dev/null || true; }
# Ctrl-C too becomes the signal that has everything saved.
trap 'send TERM' TERM INT HUP
trap 'send KILL' EXIT

for ((id = 0; id < processes; id++)); do
  export GLIDE_JAX_PROCESS_ID="$id"
  if [ "$id" -eq 0 ]; then
    # The tee outlives the signals, and so keeps the last words.
    "$@" > >(trap '' TERM INT HUP && exec tee "$logs/process0.log") 2>&1 &
  else
    "$@" >"$logs/process$id.log" 2>&1 &
  fi
  running[id]=$!
done

code=0 deadline=""
while [ ${#running[@]} -gt 0 ]; do
  sleep 0.1 || true # short: what ended meanwhile is seen after it
  for id in "${!running[@]}"; do
    if kill -0 "${running[id]}" 2>/dev/null; then continue; fi
    status=0
    wait "${running[id]}" || status=$?
    unset "running[id]"
    [ "$status" -ne 0 ] || continue
    is_worse=$((status != 42 && status < 128 && (code == 42 || code >= 128)))
    if [ "$code" -eq 0 ] || [ "$is_worse" -eq 1 ]; then code="$status"; fi
    if [ "$status" -ne 42 ]; then
      [ "$id" -eq 0 ] || tail -n 3 "$logs/process$id.log" | sed "s/^\(\[$id\] \)*/[$id] /" >&2
      echo "local.sh: process $id ended with $status" >&2
      if [ -z "$deadline" ]; then deadline=$((SECONDS + GRACE_SECS)) && send TERM; fi
    fi
  done
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then send KILL; fi
done
exit "$code"

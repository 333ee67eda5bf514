#!/usr/bin/env bash
# Shows and stops the runs of this host that launch/run_on_host.sh started. The launchers call
# it on each host, in the copy of the checkout:
#
#   launch/host_runs.sh status NAME      prints a line for each running process of the run
#   launch/host_runs.sh stop NAME        sends them SIGTERM, and marks the run as stopped
#   launch/host_runs.sh is_stopped NAME  exits with 0 if the run was stopped since its launch
#   launch/host_runs.sh launch NAME      removes the mark
#
# If sourced, it defines record_run only.

HOST_RUNS="${TMPDIR:-/tmp}/glide_jax.$(id -u)/runs"

# record_run NAME PROCESS LOG: records that this shell is the process and writes to the log.
record_run() {
  mkdir -p "$HOST_RUNS/$1" && printf '%s\n' "$$" "$3" >"$HOST_RUNS/$1/$2.process"
}

# each_process NAME COMMAND: calls COMMAND PROCESS PID LOG for each running process.
each_process() {
  local file pid log
  for file in "$HOST_RUNS/$1"/*.process; do
    [ -f "$file" ] || continue
    { read -r pid && read -r log; } <"$file" || continue
    # The process ID may have been reused by another program.
    if tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -e "--name=$1"; then
      "$2" "$(basename "$file" .process)" "$pid" "$log"
    fi
  done 2>/dev/null
}

show_process() {
  echo "$name on $(hostname), process $1: pid $2, log $3, last line: $(
    tail -n 1 "$3" | tr '\r' '\n' | grep . | tail -n 1 | cut -c -200
  )"
}

stop_process() {
  kill -TERM "$2" && echo "$name on $(hostname), process $1: saves a checkpoint and exits"
}

if [ "${BASH_SOURCE[0]}" != "$0" ]; then return; fi
set -uo pipefail
name="$2" mark="$HOST_RUNS/$2/stopped"
case "$1" in
  status) each_process "$name" show_process ;;
  stop)
    [ ! -d "$HOST_RUNS/$name" ] || touch "$mark"
    each_process "$name" stop_process
    ;;
  is_stopped) [ -e "$mark" ] ;;
  launch) rm -f "$mark" ;;
  *) echo "host_runs.sh: $1 is not known" >&2 && exit 2 ;;
esac

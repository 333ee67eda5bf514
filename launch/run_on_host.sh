#!/usr/bin/env bash
# Run by every launcher on every host: creates the environment, sets the compiler flags,
# trains, or draws or judges pictures, writes the log, and exits with the exit code of `glide`.
#
#   launch/run_on_host.sh --name=NAME --workdir=WHERE [--chip=v5p] [--slices=2] [--setup=COMMAND]
#       [--restarts=N] [--grace=SECONDS] [--codes=FOLDER] [--mount] -- --config=FILE:SIZE [--config.section.key=value ...]
#   launch/run_on_host.sh [the same] -- VERB [flags of VERB]
#
# The first form is `glide train`, whose --workdir is the folder; the second is another verb,
# whose --output it is.
#
# Log: WORKDIR/logs/HOST.log (HOST.N.log for process N), including the preparation. If a host
# cannot be prepared, the exit code is 5. If WORKDIR is in a bucket, `glide train` uses the
# object store itself, unless --mount is given: the log is then a local file, and gcloud or aws
# uploads it every minute. Other verbs use a mounted bucket. With --codes the exit code is written to FOLDER/exit.HOST.N, for launchers
# that get the code of one process only. --grace is the time to save after a signal to stop.
# --name identifies the run for host_runs.sh.
# An activated virtual environment ($VIRTUAL_ENV) is used; otherwise .venv is created.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
. launch/environment.sh
. launch/restart.sh
. launch/workdir.sh
. launch/host_runs.sh

name="" workdir="" chip=cpu slices=1 setup="" restarts=0 grace="" codes="" mount=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --name=* | --workdir=* | --chip=* | --slices=* | --setup=* | --restarts=* | --grace=* | --codes=*)
      argument="${1#--}"
      printf -v "${argument%%=*}" '%s' "${argument#*=}"
      ;;
    --mount) mount=yes ;;
    *) echo "run_on_host.sh: $1 is not a flag; see launch/run_on_host.sh" >&2 && exit 2 ;;
  esac
  shift
done
shift

case "$chip" in
  cpu) extras="" ;;
  v[0-9]* | tpu*) extras="[tpu]" ;;
  *) extras="[gpu]" ;;
esac
is_direct=""
if [[ "$workdir" == *://* && -z "$mount" && "${1:-}" == --* ]]; then
  is_direct=yes
  extras="${extras%]}" extras="${extras:+$extras,stores]}" extras="${extras:-[stores]}"
fi

process="${SLURM_PROCID:-${GLIDE_JAX_PROCESS_ID:-0}}"
log_name="$(hostname)$([ "$process" = 0 ] || echo ".$process").log"
scratch="$(mktemp -d)"
log="$scratch/$log_name" # until the workdir is available
glide=("${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m glide_jax.cli.main)

# `stop` finds this process by its record.
[ -z "$name" ] || record_run "$name" "$process" "$log"

note() {
  echo "$(date -u +%FT%TZ) $*" >>"$log"
}

# step NAME COMMAND ...: runs a step of the preparation, copies its output to the log and to
# stderr, and exits if it fails. (No pipe: background processes of --setup would keep it open.)
step() {
  local before code=0
  note "preparing: $1"
  before="$(wc -c <"$log")"
  # 9>&-: a mounted file system keeps running, and must not inherit the lock.
  "${@:2}" >>"$log" 2>&1 9>&- || code=$?
  tail -c "+$((before + 1))" "$log" >&2
  if [ "$code" -eq 0 ]; then return; fi
  note "preparation failed: $1 (code $code)"
  if [[ "$log" == "$scratch"/* ]]; then keep_log "$log" "$workdir" >&2; else rm -r "$scratch"; fi
  echo "run_on_host.sh: $(hostname) could not be prepared: $1 failed with code $code; log: $log" >&2
  [ -z "$codes" ] || echo "$PREPARATION_FAILED" >"$codes/exit.$(hostname).$process"
  exit "$PREPARATION_FAILED"
}
run_setup() {
  [ -z "$setup" ] || bash -c "$setup"
}
find_workdir() {
  if [ -n "$is_direct" ]; then
    folder="$workdir" logs="${TMPDIR:-/tmp}/glide_jax.$(id -u)/logs/${name:-run}"
  else
    mount_workdir "$workdir" >"$scratch/folder" && folder="$(cat "$scratch/folder")" || return
    logs="$folder/logs"
  fi
  mkdir -p "$logs"
}
find_environment() {
  [ -n "${VIRTUAL_ENV:-}" ] || make_environment "$extras"
}
find_flags() {
  "${glide[@]}" flags "--chip=$chip" "--slices=$slices" >"$scratch/flags" &&
    flags="$(cat "$scratch/flags")"
}

# One process of a host installs; the others wait for it.
exec 9>"${TMPDIR:-/tmp}/glide_jax.$(id -u).lock"
if command -v flock >/dev/null; then flock 9; fi
step "--setup" run_setup
step "--workdir=$workdir" find_workdir
cat "$log" >>"$logs/$log_name"
log="$logs/$log_name"
[ -z "$name" ] || record_run "$name" "$process" "$log"
step "the environment" find_environment
exec 9>&-
step "glide flags" find_flags
rm -r "$scratch"
eval "$flags"
child=""

# The tee that writes the log ignores signals, so that the log is complete. Signals to this
# script, including the loss of its terminal, are forwarded to the run. Each of them
# interrupts `wait`, hence the loop.
run_glide() {
  local pipe code
  # The user's value of the flag takes precedence.
  if [[ " $* " == *" --config.train.grace_secs="* ]]; then grace=""; fi
  if [[ "$1" == --* ]]; then
    set -- train "--workdir=$folder" "$1" ${grace:+"--config.train.grace_secs=$grace"} "${@:2}"
  else
    set -- "$1" "--output=$folder" "${@:2}"
  fi
  pipe="$(mktemp -u)"
  mkfifo "$pipe"
  (
    trap '' TERM INT HUP
    exec tee -a "$log" <"$pipe"
  ) &
  local tee=$!
  (
    trap '' HUP
    exec "${glide[@]}" "$@" >"$pipe" 2>&1
  ) &
  child=$!
  [ -z "${STOP_REQUESTED:-}" ] || stop # the signal came before the child existed
  while kill -0 "$child" 2>/dev/null; do wait "$child"; done
  wait "$child"
  code=$?
  child=""
  wait "$tee"
  rm "$pipe"
  return "$code"
}
stop() {
  STOP_REQUESTED=yes
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT HUP

# Uploads the log every minute. It ends with this script, whose process it watches.
uploader=""
if [ -n "$is_direct" ]; then
  (
    trap '' INT HUP
    while kill -0 $$ 2>/dev/null; do
      keep_log "$log" "$workdir" >/dev/null
      sleep 60
    done
  ) &
  uploader=$!
fi

note "$(hostname) ${flags//$'\n'/; }"
run_with_restarts "$restarts" run_glide "$@"
code=$?
note "exit code $code"
if [ -n "$uploader" ]; then
  kill "$uploader"
  keep_log "$log" "$workdir" >/dev/null || echo "run_on_host.sh: the log is not uploaded; it is $(hostname):$log" >&2
fi
[ -z "$codes" ] || echo "$code" >"$codes/exit.$(hostname).$process"
exit "$code"

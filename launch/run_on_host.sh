#!/usr/bin/env bash
# What every launcher runs on every host: makes the environment, sets the compiler's
# flags, trains, keeps the log, and ends with the exit code of `glide train`.
#
#   launch/run_on_host.sh --name=NAME --workdir=WHERE [--chip=v5p] [--slices=2] [--setup=COMMAND]
#       [--restarts=N] [--grace=SECONDS] [--codes=FOLDER] -- --config=FILE:SIZE [--config.section.key=value ...]
#
# Log: WORKDIR/logs/HOST.log (HOST.N.log of process N), from the first step of the
# preparation on. A host that cannot be prepared ends with code 5, and its log goes there as
# well, by gcloud or aws if the bucket cannot be mounted. With --codes the exit code is left
# in FOLDER/exit.HOST.N, for launchers that are told of one process alone.
# With --grace a run that is told to stop may take so long to save itself.
# host_runs.sh finds the run by its name.
# An activated virtual environment ($VIRTUAL_ENV) is used as it is; else .venv is made.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
. launch/environment.sh
. launch/restart.sh
. launch/workdir.sh
. launch/host_runs.sh

name="" workdir="" chip=cpu slices=1 setup="" restarts=0 grace="" codes=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --name=* | --workdir=* | --chip=* | --slices=* | --setup=* | --restarts=* | --grace=* | --codes=*)
      argument="${1#--}"
      printf -v "${argument%%=*}" '%s' "${argument#*=}"
      ;;
    *) echo "run_on_host.sh: $1 is not a flag of it" >&2 && exit 2 ;;
  esac
  shift
done
shift

case "$chip" in
  cpu) extras="" ;;
  v[0-9]* | tpu*) extras="[tpu]" ;;
  *) extras="[gpu]" ;;
esac

process="${SLURM_PROCID:-${GLIDE_JAX_PROCESS_ID:-0}}"
log_name="$(hostname)$([ "$process" = 0 ] || echo ".$process").log"
scratch="$(mktemp -d)"
log="$scratch/$log_name" # until there is a workdir
glide=("${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m glide_jax.cli.main)

# Where its runs are recorded, `stop` finds this process.
[ -z "$name" ] || record_run "$name" "$process" "$log"

note() {
  echo "$(date -u +%FT%TZ) $*" >>"$log"
}

# step NAME COMMAND ...: runs a step of the preparation; its output goes to the log, then to
# stderr, and its failure ends this script. (No pipe: what --setup leaves running in the
# background would hold it open.)
step() {
  local before code=0
  note "preparing: $1"
  before="$(wc -c <"$log")"
  # 9>&-: a mounted file system goes on running, and must not take the lock with it.
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
  mount_workdir "$workdir" >"$scratch/folder" &&
    folder="$(cat "$scratch/folder")" && mkdir -p "$folder/logs"
}
find_environment() {
  [ -n "${VIRTUAL_ENV:-}" ] || make_environment "$extras"
}
find_flags() {
  "${glide[@]}" flags "--chip=$chip" "--slices=$slices" >"$scratch/flags" &&
    flags="$(cat "$scratch/flags")"
}

# Every process of a host comes here; one installs, the others wait for it.
exec 9>"${TMPDIR:-/tmp}/glide_jax.$(id -u).lock"
if command -v flock >/dev/null; then flock 9; fi
step "--setup" run_setup
step "--workdir=$workdir" find_workdir
cat "$log" >>"$folder/logs/$log_name"
log="$folder/logs/$log_name"
[ -z "$name" ] || record_run "$name" "$process" "$log"
step "the environment" find_environment
exec 9>&-
step "glide flags" find_flags
rm -r "$scratch"
eval "$flags"
child=""

# The log is written by a tee that no signal ends, so that the last words of a run that is
# saving itself are kept. Signals meant for this script go to the run; a lost terminal is
# one of them. Each interrupts `wait`, hence the loop.
train() {
  local pipe code
  # A flag is given once.
  if [[ " $* " == *" --config.train.grace_secs="* ]]; then grace=""; fi
  pipe="$(mktemp -u)"
  mkfifo "$pipe"
  (
    trap '' TERM INT HUP
    exec tee -a "$log" <"$pipe"
  ) &
  local tee=$!
  (
    trap '' HUP
    exec "${glide[@]}" train "--workdir=$folder" "$1" \
      ${grace:+"--config.train.grace_secs=$grace"} "${@:2}" >"$pipe" 2>&1
  ) &
  child=$!
  [ -z "${STOP_AGAIN:-}" ] || stop # it came before there was a child to tell
  while kill -0 "$child" 2>/dev/null; do wait "$child"; done
  wait "$child"
  code=$?
  child=""
  wait "$tee"
  rm "$pipe"
  return "$code"
}
stop() {
  STOP_AGAIN=yes
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT HUP

note "$(hostname) ${flags//$'\n'/; }"
run_again "$restarts" train "$@"
code=$?
note "exit code $code"
[ -z "$codes" ] || echo "$code" >"$codes/exit.$(hostname).$process"
exit "$code"

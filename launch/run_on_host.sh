#!/usr/bin/env bash
# What every launcher runs on every host: makes the environment, sets the compiler's
# flags, trains, keeps the log, and ends with the exit code of `glide train`.
#
#   launch/run_on_host.sh --workdir=WHERE [--chip=v5p] [--slices=2] [--setup=COMMAND]
#       [--restarts=N] [--grace=SECONDS] [--codes=FOLDER] -- --config=FILE:SIZE [--config.section.key=value ...]
#
# Log: WORKDIR/logs/HOST.log (HOST.N.log of process N). With --codes the exit code is left
# in FOLDER/exit.HOST.N, for launchers that are told of one process alone.
# With --grace a run that is told to stop may take so long to save itself.
# An activated virtual environment ($VIRTUAL_ENV) is used as it is; else .venv is made.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
. launch/environment.sh
. launch/restart.sh
. launch/workdir.sh

workdir="" chip=cpu slices=1 setup="" restarts=0 grace="" codes=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --workdir=* | --chip=* | --slices=* | --setup=* | --restarts=* | --grace=* | --codes=*)
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

# Every process of a host comes here; one installs, the others wait for it.
prepare_host() {
  if [ -n "$setup" ]; then
    bash -c "$setup" || { echo "--setup failed on $(hostname): $setup" >&2 && return 2; }
  fi
  [ -n "${VIRTUAL_ENV:-}" ] || make_environment "$extras" || return 2
}
exec 9>"${TMPDIR:-/tmp}/glide_jax.$(id -u).lock"
if command -v flock >/dev/null; then flock 9; fi
# 9>&-: a mounted file system goes on running, and must not take the lock with it.
prepare_host 9>&- || exit 2
folder="$(mount_workdir "$workdir" 9>&-)" || exit 2
exec 9>&-

glide=("${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m glide_jax.cli.main)
flags="$("${glide[@]}" flags "--chip=$chip" "--slices=$slices")" || exit 2
eval "$flags"

process="${SLURM_PROCID:-${GLIDE_JAX_PROCESS_ID:-0}}"
mkdir -p "$folder/logs" || exit 2
log="$folder/logs/$(hostname)$([ "$process" = 0 ] || echo ".$process").log"
child=""

# The log is written by a tee that no signal ends, so that the last words of a run that is
# saving itself are kept. Signals meant for this script go to the run; a lost terminal is
# one of them. Each interrupts `wait`, hence the loop.
train() {
  local pipe code
  pipe="$(mktemp -u)"
  mkfifo "$pipe"
  (
    trap '' TERM INT HUP
    exec tee -a "$log" <"$pipe"
  ) &
  local tee=$!
  (
    trap '' HUP
    # The configuration comes first, and what is set after it wins.
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

echo "$(date -u +%FT%TZ) $(hostname) ${flags//$'\n'/; }" >>"$log"
run_again "$restarts" train "$@"
code=$?
echo "$(date -u +%FT%TZ) exit code $code" >>"$log"
[ -z "$codes" ] || echo "$code" >"$codes/exit.$(hostname).$process"
exit "$code"

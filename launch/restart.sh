# Sourced by all launchers: which exit codes of `glide train` mean "start me again", and
# the loop that does so. The one place that says it; glide_jax/runtime/lifecycle.py has the names.
#
#   0          done                                                      ends
#   1          an error of ours, with its traceback                      ends
#   2          a mistake of the user's, told in one line                 ends
#   5          not of `glide train`: a host could not be prepared         ends
#   42         stopped by a signal, everything is saved                  again
#   128 to 255 lost: killed by signal code-128, aborted after another    again
#              process was (134), or its ssh connection broke (255)
#   others     none of ours: a program is missing (127), ...             ends

PREPARATION_FAILED=5

is_again() {
  [ "$1" -eq 42 ] || [ "$1" -ge 128 ]
}

# run_again N COMMAND ...: runs it, and again while it asks to be, N times at most; ends
# with its last exit code. The pause keeps a host that fails at once from spinning.
run_again() {
  local restarts="$1" restart=0 code=143 # where it is told to stop before the first start
  shift
  while [ -z "${STOP_AGAIN:-}" ]; do
    code=0
    "$@" || code=$?
    if ! is_again "$code" || [ "$restart" -ge "$restarts" ] || [ -n "${STOP_AGAIN:-}" ]; then
      break
    fi
    restart=$((restart + 1))
    echo "exit code $code: starting again ($restart of $restarts)"
    pause "${GLIDE_JAX_RESTART_PAUSE_SECS:-10}"
  done
  return "$code"
}

# pause SECONDS: ends early by a signal that is trapped, which a shell hears in a `wait`.
pause() {
  local sleeping
  sleep "$1" &
  sleeping=$!
  wait "$sleeping" || kill "$sleeping" 2>/dev/null || true
}

# final_code CODE FOLDER: one exit code for a run of many processes, each of which left
# its own in FOLDER/exit.*: a mistake outranks the others, for the processes that it left
# behind are lost only because of it.
final_code() {
  local code="$1" file of_process
  for file in "$2"/exit.*; do
    [ -f "$file" ] || continue
    of_process="$(cat "$file")"
    if [ "$of_process" -ne 0 ] && ! is_again "$of_process"; then
      code="$of_process"
    fi
  done
  echo "$code"
}

# end_slurm_job CODE RESTARTS: ends a job of Slurm with its exit code; requeues it before, if
# the code means "again" and it was not cancelled or stopped: `launch/slurm.sh stop` takes the
# permission to be requeued from it.
end_slurm_job() {
  local job="$SLURM_JOB_ID" shown
  # The number alone of the last task of an array means the whole array.
  [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  echo "exit code $1; restarts before: ${SLURM_RESTART_COUNT:-0}"
  if is_again "$1" && [ "${SLURM_RESTART_COUNT:-0}" -lt "$2" ]; then
    shown="$(scontrol --oneliner show job "$job")"
    if [[ "$shown" == *" JobState=RUNNING "* && "$shown" == *" Requeue=1 "* ]]; then
      scontrol requeue "$job"
    else
      echo "not requeued by this script: the job was stopped, cancelled or preempted"
    fi
  fi
  exit "$1"
}

# Sourced by all launchers: the retryable exit codes of `glide train`, and the loop that
# restarts a run. glide_jax/runtime/lifecycle.py names the codes.
#
#   code       meaning                                                   restarted
#   0          done                                                      no
#   1          internal error, with a traceback                          no
#   2          user error, reported in one line                          no
#   3          checkpoints exist, but none is valid                      no
#   4          training diverged and could not recover                   no
#   5          a host could not be prepared (not from `glide train`)     no
#   42         stopped by a signal, everything is saved                  yes
#   128 to 255 lost: killed by signal code-128, ended because another    yes
#              process was lost (134), or a broken ssh connection (255)
#   others     not from `glide train`: a program is missing (127), ...   no

PREPARATION_FAILED=5

is_retryable() {
  [ "$1" -eq 42 ] || [ "$1" -ge 128 ]
}

# run_with_restarts N COMMAND ...: runs a command and restarts it after retryable exit codes,
# at most N times. Returns the last exit code. A pause before each restart limits the rate.
run_with_restarts() {
  local restarts="$1" restart=0 code=143 # the code if stopped before the first start
  shift
  while [ -z "${STOP_REQUESTED:-}" ]; do
    code=0
    "$@" || code=$?
    if ! is_retryable "$code" || [ "$restart" -ge "$restarts" ] || [ -n "${STOP_REQUESTED:-}" ]; then
      break
    fi
    restart=$((restart + 1))
    echo "exit code $code: restarting ($restart of $restarts)"
    pause "${GLIDE_JAX_RESTART_PAUSE_SECS:-10}"
  done
  return "$code"
}

# pause SECONDS: sleeps; a trapped signal ends it early, because it interrupts `wait`.
pause() {
  local sleeping
  sleep "$1" &
  sleeping=$!
  wait "$sleeping" || kill "$sleeping" 2>/dev/null || true
}

# final_code CODE FOLDER: prints one exit code for a run of several processes, each of which
# wrote its own to FOLDER/exit.*. A code that is not retryable takes precedence: the other
# processes were lost because of it.
final_code() {
  local code="$1" file of_process
  for file in "$2"/exit.*; do
    [ -f "$file" ] || continue
    of_process="$(cat "$file")"
    if [ "$of_process" -ne 0 ] && ! is_retryable "$of_process"; then
      code="$of_process"
    fi
  done
  echo "$code"
}

# end_slurm_job CODE RESTARTS: exits a Slurm job with its exit code, after requeuing it if the
# code is retryable and the job was not cancelled or stopped (`launch/slurm.sh stop` sets
# Requeue=0).
end_slurm_job() {
  local job="$SLURM_JOB_ID" shown
  # The job ID of the last task of an array refers to the whole array.
  [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  echo "exit code $1; restarts before: ${SLURM_RESTART_COUNT:-0}"
  if is_retryable "$1" && [ "${SLURM_RESTART_COUNT:-0}" -lt "$2" ]; then
    shown="$(scontrol --oneliner show job "$job")"
    if [[ "$shown" == *" JobState=RUNNING "* && "$shown" == *" Requeue=1 "* ]]; then
      scontrol requeue "$job"
    else
      echo "not requeued by this script: the job was stopped, cancelled or preempted"
    fi
  fi
  exit "$1"
}

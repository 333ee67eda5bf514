set -uo pipefail
cd @ROOT@ || exit
. launch/restart.sh
. launch/code.sh
hosts=(@HOSTS@)
folder=@FOLDER@
codes="$(mktemp -d)"
trap 'rm -r "$codes"' EXIT
command="$(cat <<'RUN'
@COMMAND@
RUN
)"
# The loss of its terminal (-tt) makes a process save a checkpoint and exit.
jobs=()
stop() {
  STOP_REQUESTED=yes
  [ ${#jobs[@]} -eq 0 ] || kill "${jobs[@]}" 2>/dev/null
}
trap stop INT TERM

for host in "${hosts[@]}"; do
  code_files@EXTRA@ | rsync -az --from0 --files-from=- ./ "$host:$folder/" || exit 2
  ssh -n "$host" "cd $folder && launch/host_runs.sh launch @NAME@" || exit 2
done

on_all_hosts() {
  local index code worst=0
  rm -f "$codes"/exit.*
  jobs=()
  for index in "${!hosts[@]}"; do
    ssh -tt -o ServerAliveInterval=30 "${hosts[$index]}" "cd $folder && \
      GLIDE_JAX_COORDINATOR=@COORDINATOR@ GLIDE_JAX_NUM_PROCESSES=${#hosts[@]} \
      GLIDE_JAX_PROCESS_ID=$index GLIDE_JAX_HOSTS=@NAMES@ $command" </dev/null &
    jobs+=($!)
    [ -z "${STOP_REQUESTED:-}" ] || stop # the signal came before the job existed
  done
  for index in "${!hosts[@]}"; do
    while kill -0 "${jobs[$index]}" 2>/dev/null; do wait "${jobs[$index]}"; done
    wait "${jobs[$index]}"
    code=$?
    echo "$code" >"$codes/exit.$index"
    worst=$((code > worst ? code : worst))
  done
  jobs=()
  if ssh -n "${hosts[0]}" "cd $folder && launch/host_runs.sh is_stopped @NAME@"; then
    STOP_REQUESTED=yes
  fi
  return "$(final_code "$worst" "$codes")"
}
run_with_restarts @RESTARTS@ on_all_hosts

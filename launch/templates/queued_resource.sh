set -euo pipefail
cd @ROOT@
. launch/code.sh
queue() {
  gcloud compute tpus queued-resources "$@" @WHERE@
}
# Prints the hosts that could not be prepared, one per line.
failed_hosts() {
  gcloud storage ls "@MARKS@/" 2>/dev/null || true
}
request() {
  gcloud storage rm --recursive "@MARKS@" 2>/dev/null || true
  queue create @NAME@ @NODES@ \
    --accelerator-type=@ACCELERATOR@ --runtime-version=@RUNTIME@ \
@CAPACITY@
@ACCOUNT@
    --scopes=https://www.googleapis.com/auth/cloud-platform \
    --metadata-from-file=startup-script="$startup"
}
# Prints the state of the resource, "" if it is deleted, UNKNOWN if gcloud fails.
state() {
  queue list --filter="name~/@NAME@\$" --format="value(state.state)" || echo UNKNOWN
}

if [ -z "$(state)" ]; then
  code_files@EXTRA@ | tar -cz --null -T - | gcloud storage cp - @CODE@
  request
fi
restarts=0
while now="$(state)" && [ -n "$now" ]; do
  failed="$(failed_hosts)"
  if [ @KEEP@ = yes ] && [ -n "$failed" ]; then
    echo "could not be prepared: $(sed 's|.*/||' <<<"$failed" | paste -sd ' '); the logs are in @LOGS@. The slices are kept and incur cost; to delete them: $(echo gcloud compute tpus queued-resources delete @NAME@ @WHERE@ --force)"
    exit @FAILED@
  fi
  case "$now" in
    SUSPENDED | FAILED)
      [ "$restarts" -lt @RESTARTS@ ] || { echo "the slices are lost ($now) after --restarts=@RESTARTS@ restarts"; exit 1; }
      restarts=$((restarts + 1))
      echo "the slices are lost ($now); requesting new ones ($restarts of @RESTARTS@)"
      queue delete @NAME@ --force --quiet
      request
      ;;
  esac
  sleep 60
done
echo "The run has finished and the slices are released; logs are in @LOGS@."

set -euo pipefail
cd @ROOT@
. launch/code.sh
queue() {
  gcloud compute tpus queued-resources "$@" @WHERE@
}
# The hosts that could not be prepared, a line each.
failed_hosts() {
  gcloud storage ls "@MARKS@/" 2>/dev/null || true
}
ask() {
  gcloud storage rm --recursive "@MARKS@" 2>/dev/null || true
  queue create @NAME@ @NODES@ \
    --accelerator-type=@ACCELERATOR@ --runtime-version=@RUNTIME@ \
@CAPACITY@
@ACCOUNT@
    --scopes=https://www.googleapis.com/auth/cloud-platform \
    --metadata-from-file=startup-script="$startup"
}
# Empty once the resource is deleted; a failed look is not an answer.
state() {
  queue list --filter="name~/@NAME@\$" --format="value(state.state)" || echo UNKNOWN
}

if [ -z "$(state)" ]; then
  code_files@EXTRA@ | tar -cz --null -T - | gcloud storage cp - @CODE@
  ask
fi
restarts=0
while now="$(state)" && [ -n "$now" ]; do
  failed="$(failed_hosts)"
  if [ @KEEP@ = yes ] && [ -n "$failed" ]; then
    echo "could not be prepared: $(sed 's|.*/||' <<<"$failed" | paste -sd ' '); the logs are in @LOGS@. The slices are kept, and cost, until: $(echo gcloud compute tpus queued-resources delete @NAME@ @WHERE@ --force)"
    exit @FAILED@
  fi
  case "$now" in
    SUSPENDED | FAILED)
      [ "$restarts" -lt @RESTARTS@ ] || { echo "the slices are lost again after as many restarts as --restarts allows (@RESTARTS@)"; exit 1; }
      restarts=$((restarts + 1))
      echo "the slices are lost ($now); asking again ($restarts of @RESTARTS@)"
      queue delete @NAME@ --force --quiet
      ask
      ;;
  esac
  sleep 60
done
echo "The run has ended and the slices are given back; logs are in @LOGS@."

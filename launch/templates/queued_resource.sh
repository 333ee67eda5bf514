set -euo pipefail
cd @ROOT@
queue() {
  gcloud compute tpus queued-resources "$@" @WHERE@
}
ask() {
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
  tar -cz --exclude=./.venv --exclude=./.git --exclude=./runs . | gcloud storage cp - @CODE@
  ask
fi
restarts=0
while now="$(state)" && [ -n "$now" ]; do
  case "$now" in
    SUSPENDED | FAILED)
      [ "$restarts" -lt @RESTARTS@ ] || { echo "lost once more than --restarts allows"; exit 1; }
      restarts=$((restarts + 1))
      echo "the slices are lost ($now); asking again ($restarts of @RESTARTS@)"
      queue delete @NAME@ --force --quiet
      ask
      ;;
  esac
  sleep 60
done
echo "The run has ended and the slices are given back; logs are in @LOGS@."

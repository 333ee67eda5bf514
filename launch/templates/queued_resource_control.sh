set -euo pipefail
state="$(gcloud compute tpus queued-resources list @WHERE@ \
  --filter="name~/@NAME@\$" --format="value(state.state)")"
# Calls host_runs.sh on all hosts of all slices; gcloud's own output is discarded.
on_all_hosts() {
  local node
  for node in $(gcloud compute tpus tpu-vm list @WHERE@ \
    --filter="name~/@NAME@(-[0-9]+)?\$" --format="value(name.basename())"); do
    gcloud compute tpus tpu-vm ssh "$node" @WHERE@ --worker=all \
      --command="[ ! -d /opt/@NAME@ ] || { cd /opt/@NAME@ && sudo launch/host_runs.sh $1 @NAME@; }" |
      sed -n '/^@NAME@ on /p' || return
  done
}
show_run() {
  [ -n "$state" ] || return 0
  echo "@NAME@: the queued resource is $state"
  [ "$state" != ACTIVE ] || on_all_hosts status
}
stop_run() {
  local stopped=""
  [ "$state" != ACTIVE ] || stopped="$(on_all_hosts stop)"
  if [ -n "$stopped" ]; then
    echo "$stopped"
    echo "The first host releases the slices when the run has exited."
  else
    gcloud compute tpus queued-resources delete @NAME@ @WHERE@ --force --quiet
    echo "No run was on the slices; they are released."
  fi
}
@DO@

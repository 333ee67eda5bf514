set -euo pipefail
cd @ROOT@
. launch/code.sh
on_all_hosts() {
  gcloud compute tpus tpu-vm ssh @SLICE@ @WHERE@ --worker=all --command="$1"
}

code="$(mktemp --suffix=.tar.gz)"
trap 'rm "$code"' EXIT
code_files@EXTRA@ | tar -czf "$code" --null -T -
gcloud compute tpus tpu-vm scp "$code" @SLICE@:/tmp/@NAME@.tar.gz @WHERE@ --worker=all
on_all_hosts "mkdir -p ~/@NAME@ && tar -xzf /tmp/@NAME@.tar.gz -C ~/@NAME@"

run="$(cat <<'RUN'
@COMMAND@
RUN
)"
# auto: JAX detects the hosts from the slice's metadata.
on_all_hosts "cd ~/@NAME@ && export GLIDE_JAX_COORDINATOR=auto && nohup setsid $run >/tmp/@NAME@.log 2>&1 </dev/null &"
echo "Started on every host; logs are in @LOGS@, errors before these exist in /tmp/@NAME@.log."
echo "To show or stop it: launch/tpu_vm.sh status|stop --name=@NAME@ --slice=@SLICE@ @WHERE@"

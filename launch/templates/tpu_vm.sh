set -euo pipefail
cd @ROOT@
on_all_hosts() {
  gcloud compute tpus tpu-vm ssh @SLICE@ @WHERE@ --worker=all --command="$1"
}

code="$(mktemp --suffix=.tar.gz)"
trap 'rm "$code"' EXIT
tar -czf "$code" --exclude=./.venv --exclude=./.git --exclude=./runs .
gcloud compute tpus tpu-vm scp "$code" @SLICE@:/tmp/@NAME@.tar.gz @WHERE@ --worker=all
on_all_hosts "mkdir -p ~/@NAME@ && tar -xzf /tmp/@NAME@.tar.gz -C ~/@NAME@"

run="$(cat <<'RUN'
@COMMAND@
RUN
)"
# auto: the hosts find each other by the slice's metadata.
on_all_hosts "cd ~/@NAME@ && export GLIDE_JAX_COORDINATOR=auto && nohup setsid $run >/tmp/@NAME@.log 2>&1 </dev/null &"
echo "Started on every host; logs are in @LOGS@, what comes before them in /tmp/@NAME@.log."
echo "To stop it: on every host, pkill -TERM -f launch/run_on_host.sh"

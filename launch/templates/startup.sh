#!/usr/bin/env bash
# Runs as root on every host of every slice, at each boot.
set -uo pipefail
export HOME=/root
metadata() {
  curl -sf -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/$1"
}

mkdir -p /opt/@NAME@ && cd /opt/@NAME@ || exit
gcloud storage cat @CODE@ | tar -xz
# auto: the hosts find each other by the slices' metadata.
export GLIDE_JAX_COORDINATOR=auto
@COMMAND@

# It has ended for good; host 0 of slice 0 gives the slices back.
slice="$(metadata attributes/tpu-env | sed -n "s/^MEGASCALE_SLICE_ID: *'\(.*\)'/\1/p")"
if [ "$(metadata attributes/agent-worker-number)" = 0 ] && [ "${slice:-0}" = 0 ]; then
  zone="$(metadata zone)"
  gcloud compute tpus queued-resources delete @NAME@ --zone="${zone##*/}" --force --quiet --async
fi

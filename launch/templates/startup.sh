#!/usr/bin/env bash
# Runs as root on every host of every slice, at each boot.
set -uo pipefail
export HOME=/root
metadata() {
  curl -sf -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/$1"
}

# The mark of an earlier boot is removed.
mark="@MARKS@/$(hostname)"
gcloud storage rm "$mark" 2>/dev/null
# auto: JAX detects the hosts from the slices' metadata.
export GLIDE_JAX_COORDINATOR=auto
code=@FAILED@
fetched="$(mktemp)"
if { mkdir -p /opt/@NAME@ && cd /opt/@NAME@ && gcloud storage cat @CODE@ | tar -xz; } 2>"$fetched"; then
  @COMMAND@
  code=$?
fi
if [ "$code" -eq @FAILED@ ]; then
  # The mark has the errors from before the log in the workdir existed.
  { echo "$(date -u +%FT%TZ) $(hostname) could not be prepared" && cat "$fetched"; } |
    gcloud storage cp - "$mark"
fi

# The run has finished. Host 0 of slice 0 releases the slices, unless a host could not be
# prepared and the slices are kept for inspection.
slice="$(metadata attributes/tpu-env | sed -n "s/^MEGASCALE_SLICE_ID: *'\(.*\)'/\1/p")"
if [ "$(metadata attributes/agent-worker-number)" = 0 ] && [ "${slice:-0}" = 0 ]; then
  if [ @KEEP@ = yes ] && [ -n "$(gcloud storage ls "@MARKS@/" 2>/dev/null)" ]; then
    echo "the slices are kept: a host could not be prepared"
    exit @FAILED@
  fi
  zone="$(metadata zone)"
  gcloud compute tpus queued-resources delete @NAME@ --zone="${zone##*/}" --force --quiet --async
fi

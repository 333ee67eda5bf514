#!/usr/bin/env bash
# The whole of GLIDE at toy size on this machine, no accelerator needed: trains base,
# its two fine-tunes, the upsampler and its own, and the noised CLIP; samples, measures
# and draws. Ends with runs/quickstart/samples.png. Started again, it goes on.
set -euo pipefail
case " $* " in *" --help "* | *" -h "*)
  sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"
  exit
  ;;
esac
cd "$(dirname "$0")/.."
. launch/environment.sh
make_environment ""
# The toy is made for a CPU; GLIDE_JAX_PLATFORMS= lets JAX choose.
export JAX_PLATFORMS="${GLIDE_JAX_PLATFORMS-cpu}"
exec .venv/bin/glide quickstart --output=runs/quickstart "$@"

#!/usr/bin/env bash
# Runs all of GLIDE at toy size on this machine, without an accelerator: trains the base model
# and its two fine-tunes, the upsampler and its fine-tune, and the noised CLIP; samples and
# evaluates. The result is runs/quickstart/samples.png. If interrupted, run it again to
# continue.
set -euo pipefail
case " $* " in *" --help "* | *" -h "*)
  sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"
  exit
  ;;
esac
cd "$(dirname "$0")/.."
. launch/environment.sh
make_environment ""
use_cpu
exec .venv/bin/glide quickstart --output=runs/quickstart "$@"

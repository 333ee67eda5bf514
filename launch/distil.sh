#!/usr/bin/env bash
# Distils the base model and the upsampler of launch/quickstart.sh to four and two steps,
# without an accelerator. The result is runs/distil/samples.png: teachers and students, from
# the same noise. If interrupted, run it again to continue. Arguments are passed to
# `glide distil`, e.g. --steps=8.
set -euo pipefail
case " $* " in *" --help "* | *" -h "*)
  sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"
  exit
  ;;
esac
cd "$(dirname "$0")/.."
. launch/environment.sh
make_environment ""
models=runs/quickstart/bundles
for name in base_cfg upsampler; do
  if [ ! -e "$models/$name/bundle.json" ]; then
    echo "launch/distil.sh: $models/$name is not a bundle; train the models with" \
      "launch/quickstart.sh" >&2
    exit 2
  fi
done
use_cpu
exec .venv/bin/glide distil --base="$models/base_cfg" --upsampler="$models/upsampler" \
  --teacher_steps=16 --upsampler_teacher_steps=8 --output=runs/distil "$@"

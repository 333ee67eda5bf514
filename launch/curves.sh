#!/usr/bin/env bash
# Makes the three plots of GLIDE's figure 6 for the models of launch/quickstart.sh, without an
# accelerator: a noised CLIP that judges and guides nothing, reference statistics of real
# images, a sweep of guidance modes and scales, a table and a plot.
#   launch/curves.sh --root=runs/curves --models=runs/quickstart/bundles [-- FLAGS]
# Paths are relative to the checkout. FLAGS apply to every run of the sweep, e.g.
# --num_images=64. If interrupted, run it again to continue. Use another --root for retrained
# models, and in place of a root that has runs but no folder "judge".
# Results: ROOT/curves.png, curves.md and rows.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
root=runs/curves models=runs/quickstart/bundles
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h)
      sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
      exit
      ;;
    --root=*) root="${1#*=}" ;;
    --models=*) models="${1#*=}" ;;
    --)
      shift
      break
      ;;
    *)
      echo "launch/curves.sh: $1 is not a flag; see --help" >&2
      exit 2
      ;;
  esac
  shift
done
# bash does not expand the ~ of --root=~/path.
root="${root/#\~\//$HOME/}" models="${models/#\~\//$HOME/}"
for bundle in base_cfg noised_clip; do
  if [ ! -d "$models/$bundle" ]; then
    echo "launch/curves.sh: --models=$models has no $bundle; train the models with" \
      "launch/quickstart.sh, or give its folder of bundles" >&2
    exit 2
  fi
done
. launch/environment.sh
if [ -n "${VIRTUAL_ENV:-}" ]; then
  glide="$VIRTUAL_ENV/bin/glide"
else
  make_environment ""
  glide=.venv/bin/glide
fi
use_cpu
# Of another seed than the CLIP that guides, and trained for twice as long.
judge="$root/judge/bundle"
if [ ! -e "$judge/bundle.json" ]; then
  "$glide" train --config=experiments/configs/noised_clip64.py:tiny \
    --workdir="$root/judge" --config.seed=1 --config.train.num_steps=1200
  "$glide" export "$root/judge" --output="$judge"
fi
reference="$root/reference.npz" features="clip:$judge"
if [ ! -e "$reference" ]; then
  # As many as are sampled: precision and recall compare sets of equal size.
  "$glide" evaluate reference --source=shapes:quickstart --px=16 --max_images=512 \
    --features="$features" --output="$reference"
fi
# `glide` rejects a flag that is given twice.
defaults=()
for flag in --num_images=512 --save_images=512 --batch_size=64 --respacing=25; do
  case " $* " in
    *" ${flag%%=*}="*) ;;
    *) defaults+=("$flag") ;;
  esac
done
"$glide" sweep experiments/sweeps/curves.py --root="$root" --parallel=2 -- \
  --base="$models/base_cfg" --clip="$models/noised_clip" --features="$features" \
  --reference="$reference" --captions_of=shapes:quickstart \
  ${defaults[@]+"${defaults[@]}"} "$@"
"$glide" sweep --root="$root" --report --rows="$root/rows.jsonl"
"$glide" evaluate --curves="$root" --output="$root/curves.png"

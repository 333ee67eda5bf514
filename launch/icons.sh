#!/usr/bin/env bash
# Builds the set of icons, trains its six phases, the base model for longer, and a second
# noised CLIP that judges them. Exports the bundles to runs/icons_models/bundles. It needs no
# accelerator: about six hours on one CPU core. If interrupted, run it again to continue.
# Arguments are passed to every training run, e.g. --config.train.global_batch_size=256.
set -euo pipefail
case " $* " in *" --help "* | *" -h "*)
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
  exit
  ;;
esac
cd "$(dirname "$0")/.."
. launch/environment.sh
make_environment "[icons]"
use_cpu
glide=.venv/bin/glide models=runs/icons_models
if [ ! -e runs/icons/README.md ]; then
  "$glide" data icons --output=runs/icons
fi

# train NAME CONFIG [FLAG...]: trains a phase, or continues it, and exports it.
train() {
  local name="$1" config="$2"
  shift 2
  if [ ! -e "$models/bundles/$name/bundle.json" ]; then
    "$glide" train --config="experiments/configs/$config.py:icons" \
      --workdir="$models/$name" --config.data.cache_dir="$models/cache" "$@"
    "$glide" export "$models/$name" --output="$models/bundles/$name"
  fi
}

train base base64 "$@"
train base_cfg base64_cfg --config.train.init_from="$models/base" "$@"
# The weights are the best of experiments/sweeps/icons.py. The learning rate falls to zero in
# each of the two runs.
longer=(--config.optim.learning_rate=1e-3 --config.optim.warmup_steps=200
  --config.train.loss_weighting=sigmoid --config.train.caption_drop_prob=0.1)
train base_longer base64_cfg --config.train.init_from="$models/bundles/base_cfg" \
  --config.train.num_steps=10500 "${longer[@]}" "$@"
train base_longest base64_cfg --config.train.init_from="$models/bundles/base_longer" \
  --config.train.num_steps=7500 "${longer[@]}" "$@"
train base_inpaint base64_inpaint --config.train.init_from="$models/base_longer" "$@"
train upsampler upsample256 "$@"
train upsampler_inpaint upsample256_inpaint \
  --config.train.init_from="$models/upsampler" "$@"
train noised_clip noised_clip64 "$@"
# Of another seed and trained for longer, as it guides nothing.
train judge noised_clip64 --config.seed=1 --config.train.num_steps=2300 "$@"

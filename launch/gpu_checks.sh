#!/usr/bin/env bash
# Checks and times this machine's GPU: the tests marked gpu, then training steps, sampling and
# the roofline of the compiled steps.
#   launch/gpu_checks.sh [--output=experiments/results/gpu] [--sizes=released]
#       [--batch=32] [--pictures=8] [--chip=h100] [--any_device]
# --sizes       of the base model and the upsampler
# --batch       images of a training step of the base model; the upsampler has a quarter
# --pictures    sampled at once
# --chip        kind of GPU whose roofline is computed (see `glide plan`); without it none is
# --any_device  runs on a machine without a GPU as well, e.g. with --sizes=tiny
# Results: OUTPUT/train.jsonl and sample.jsonl, one row for each measurement, those of
# training with the time of each kind of instruction beside its bound, and
# OUTPUT/roofline_*.json. A relative OUTPUT is within the checkout. A measurement that fails
# is reported, and the others run; the exit code is then 1.
set -euo pipefail
cd "$(dirname "$0")/.."
output=experiments/results/gpu sizes=released batch=32 pictures=8 chip="" any_device=no
die() {
  echo "launch/gpu_checks.sh: $*" >&2
  exit 2
}
for flag in "$@"; do
  case "$flag" in
    --help | -h)
      sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
      exit
      ;;
    --output=*) output="${flag#*=}" ;;
    --sizes=*) sizes="${flag#*=}" ;;
    --batch=*) batch="${flag#*=}" ;;
    --pictures=*) pictures="${flag#*=}" ;;
    --chip=*) chip="${flag#*=}" ;;
    --any_device) any_device=yes ;;
    *) die "$flag is not a flag; see --help" ;;
  esac
done
python="${VIRTUAL_ENV:-.venv}/bin/python"
[ -x "$python" ] || die "no environment is at ${VIRTUAL_ENV:-.venv}; run launch/environment.sh"
platform="$("$python" -c 'import jax; print(jax.default_backend())')"
if [ "$platform" != gpu ] && [ "$any_device" = no ]; then
  die "JAX has no GPU here, it uses $platform; install jax[cuda13], or add --any_device"
fi
mkdir -p "$output"
upsampler_batch=$((batch < 4 ? 1 : batch / 4))

failed=0
# run NAME COMMAND...: runs a command, and reports its failure without ending the script.
run() {
  local name="$1"
  shift
  echo "== $name"
  "$@" || {
    echo "launch/gpu_checks.sh: failed: $name" >&2
    failed=1
  }
}
glide() { "$python" -m glide_jax.cli.main "$@"; }
plan() { glide plan --json "${@:2}" >"$1.part" && mv "$1.part" "$1"; }

if [ "$platform" = gpu ]; then
  run "tests marked gpu" "$python" -m pytest -q -m gpu tests
else
  echo "the tests marked gpu are skipped: JAX uses $platform"
fi
for size in ${sizes//,/ }; do
  run "training step, base, $size" glide benchmark train \
    --config="base64:$size" --batch="$batch" --by_instruction \
    --output="$output/train.jsonl"
  run "training step, upsampler, $size" glide benchmark train \
    --config="upsample256:$size" --batch="$upsampler_batch" --by_instruction \
    --output="$output/train.jsonl"
  run "sampling, $size" glide benchmark sample --config="base64:$size" \
    --upsampler_config="upsample256:$size" --batch="$pictures" \
    --output="$output/sample.jsonl"
  if [ -n "$chip" ]; then
    run "roofline, base, $size" plan "$output/roofline_base64_$size.json" \
      --config="base64:$size" --chips="$chip:1" --compile --config.mesh.fsdp=1 \
      --config.train.global_batch_size="$batch"
    run "roofline, upsampler, $size" plan "$output/roofline_upsample256_$size.json" \
      --config="upsample256:$size" --chips="$chip:1" --compile --config.mesh.fsdp=1 \
      --config.train.global_batch_size="$upsampler_batch"
  fi
done
[ -n "$chip" ] || echo "no roofline is computed: --chip is not given"
exit "$failed"

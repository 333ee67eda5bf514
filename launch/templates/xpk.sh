set -euo pipefail
cd @ROOT@
. launch/code.sh
code="$(mktemp -d)"
trap 'rm -r "$code"' EXIT
code_files@EXTRA@ | tar -c --null -T - | tar -x -C "$code"

command="$(cat <<'RUN'
@COMMAND@
RUN
)"
xpk workload create @WHERE@ \
  --workload=@NAME@ --tpu-type=@TPU@ --num-slices=@SLICES@ \
@STORAGE@
  --base-docker-image=python:3.12 --script-dir="$code" \
  --max-restarts=@RESTARTS@ --termination-grace-period-seconds=600 \
  --command="$command"

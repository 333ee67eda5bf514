set -euo pipefail
cd @ROOT@
# A copy without what need not travel.
code="$(mktemp -d)"
trap 'rm -r "$code"' EXIT
tar -c --exclude=./.venv --exclude=./.git --exclude=./runs . | tar -x -C "$code"

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

set -euo pipefail
cd @ROOT@
# A copy without what need not travel.
code="$(mktemp -d)"
trap 'rm -r "$code"' EXIT
tar -c --exclude=./.venv --exclude=./.git --exclude=./runs . | tar -x -C "$code"
@SUBMIT@ --script-dir="$code"

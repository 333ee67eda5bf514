set -euo pipefail
cd @ROOT@
. launch/code.sh
code="$(mktemp -d)"
trap 'rm -r "$code"' EXIT
code_files@EXTRA@ | tar -c --null -T - | tar -x -C "$code"
# Without .skyignore SkyPilot applies .gitignore, and omits files that git tracks.
touch "$code/.skyignore"
sky jobs launch --yes --detach-run --name=@NAME@ --workdir="$code" "$task"

#!/usr/bin/env bash
# Sets up what the tests need and runs them: the default suite, or with --all also the
# heavy proofs marked slow. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
make_environment "[dev]"
selection=(-m "not slow and not gpu")
if [ "${1:-}" = "--all" ]; then
  shift
  # libtpu compiles train steps for TPUs on any CPU. Without it those tests skip.
  make_environment "[tpu]" || echo "No libtpu here: nothing is compiled for TPUs" >&2
  selection=(-m "not gpu")
fi
export JAX_PLATFORMS=cpu
.venv/bin/ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ." >&2; exit 1; }
.venv/bin/ruff check --quiet .
exec .venv/bin/python -m pytest "${selection[@]}" "$@"

#!/usr/bin/env bash
# Sets up what the tests need and runs them: the default suite, or with --all also the
# heavy proofs marked slow, for which root's apt-get installs Slurm, shellcheck and an ssh
# server where they are missing. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

install_debian_packages() {
  local packages=(slurm-wlm slurmd slurmctld slurm-client munge openssh-server rsync
    shellcheck)
  dpkg -s "${packages[@]}" >/dev/null 2>&1 && return
  export DEBIAN_FRONTEND=noninteractive
  # No daemon is started by this: the tests start their own, with their own settings.
  local policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ]; then
    policy=""
  else
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
  fi
  apt-get update -qq && apt-get install -qq --no-install-recommends "${packages[@]}" >/dev/null ||
    echo "The Debian packages could not be installed; their tests are skipped." >&2
  [ -z "$policy" ] || rm "$policy"
}

selection=(-m "not slow and not gpu and not tpu")
if [ "${1:-}" = "--all" ]; then
  shift
  selection=(-m "not gpu and not tpu")
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    install_debian_packages
  fi
fi
make_environment "[dev]"
export JAX_PLATFORMS=cpu
.venv/bin/ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ." >&2; exit 1; }
.venv/bin/ruff check --quiet .
exec .venv/bin/python -m pytest "${selection[@]}" "$@"

#!/usr/bin/env bash
# Sets up what the tests need and runs them: the default suite, or with --all also the
# heavy proofs marked slow, for which apt-get installs Slurm, an ssh server and shellcheck
# where they are missing (as root, or by sudo without a password). Other arguments go to
# pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

# Tests whose programs could not be installed are skipped with the reason.
install_debian_packages() {
  local packages=(slurm-wlm munge openssh-server rsync shellcheck) as_root=()
  if dpkg -s "${packages[@]}" >/dev/null 2>&1; then return; fi
  if ! command -v apt-get >/dev/null; then
    echo "This is no Debian: the tests of Slurm and ssh need ${packages[*]}." >&2
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    if ! sudo -n true 2>/dev/null; then
      echo "The tests of Slurm and ssh are skipped; before --all, root has to run:" \
        "apt-get install --no-install-recommends ${packages[*]}" >&2
      return
    fi
  fi
  # No daemon is started by this: the tests start their own, with their own settings.
  ${as_root[@]+"${as_root[@]}"} bash -c '
    set -eu
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap "rm -f $policy" EXIT
      printf "#!/bin/sh\nexit 101\n" >"$policy"
      chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  ' _ "${packages[@]}" ||
    echo "apt-get failed: the tests of Slurm and ssh are skipped." >&2
}

selection=(-m "not slow and not gpu and not tpu")
if [ "${1:-}" = "--all" ]; then
  shift
  selection=(-m "not gpu and not tpu")
  install_debian_packages
  # libtpu compiles train steps for TPUs on any CPU. Without it those tests skip.
  make_environment "[tpu]" || echo "No libtpu here: nothing is compiled for TPUs." >&2
  make_environment "[wandb]"
  make_environment "[docs]"
fi
make_environment "[dev]"
export JAX_PLATFORMS=cpu
.venv/bin/ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ." >&2; exit 1; }
.venv/bin/ruff check --quiet .
# Whole files go to one process each, so that what a file sets up is made once.
exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
  --no-loadscope-reorder "${selection[@]}" "$@"

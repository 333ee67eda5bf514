#!/usr/bin/env bash
# Installs the requirements of the tests and runs them: the default suite, or with --all also
# the tests marked slow, for which apt-get installs Slurm, an ssh server, shellcheck, Chromium
# and its driver, and zsh if they are missing (as root, or by sudo without a password). Other
# arguments are passed to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

# Tests whose programs cannot be installed are skipped with the reason.
install_debian_packages() {
  local packages=(slurm-wlm munge openssh-server rsync shellcheck) as_root=()
  # For the vote page, glide demo and the completion scripts; 137 MB with dependencies.
  packages+=(chromium chromium-driver zsh)
  if dpkg -s "${packages[@]}" >/dev/null 2>&1; then return; fi
  if ! command -v apt-get >/dev/null; then
    echo "apt-get is not available: some tests are skipped; they need ${packages[*]}." >&2
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    if ! sudo -n true 2>/dev/null; then
      echo "Some tests are skipped; to run them, run as root before --all:" \
        "apt-get install --no-install-recommends ${packages[*]}" >&2
      return
    fi
  fi
  # No daemon is started: the tests start their own, with their own settings.
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
    echo "apt-get failed: the tests that need ${packages[*]} are skipped." >&2
}

all=no selection=(-m "not slow and not gpu and not tpu")
if [ "${1:-}" = "--all" ]; then
  shift
  all=yes
  selection=(-m "not gpu and not tpu")
  install_debian_packages
  # libtpu compiles train steps for TPUs on any CPU. Without it those tests skip.
  make_environment "[tpu]" || echo "libtpu is not installed: nothing is compiled for TPUs." >&2
  make_environment "[wandb]"
  make_environment "[judge]"
  # Programs are compiled for GPUs on any CPU.
  make_environment "[gpu-compile]" ||
    echo "the CUDA compiler is not installed: nothing is compiled for GPUs." >&2
  make_environment "[docs]"
  make_environment "[stores,stores-test]" ||
    echo "the servers of gs:// and s3:// are not installed: object stores are not tested." >&2
  # The page in the browser, with Debian's Chromium.
  make_environment "[demo]" ||
    echo "gradio is not installed: the page of glide demo is not tested." >&2
  make_environment "[prepare,dev]" .venv-prepare ||
    echo "Apache Beam is not installed: glide data prepare is not tested." >&2
fi
make_environment "[dev]"
export JAX_PLATFORMS=cpu
.venv/bin/ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ." >&2; exit 1; }
.venv/bin/ruff check --quiet .
if [ "$all" = yes ]; then
  # On its first run pyright installs itself from the npm registry.
  if .venv/bin/pyright --version >/dev/null 2>&1; then
    .venv/bin/pyright --level error
  else
    echo "pyright cannot be installed: types are not checked." >&2
  fi
fi
if [ -x .venv-prepare/bin/pytest ] && [ "$all" = yes ] && [ $# -eq 0 ]; then
  .venv-prepare/bin/python -m pytest -q tests/prepare -m "not gpu and not tpu"
fi
# All tests of a file run in one process, so that its fixtures are set up once.
exec .venv/bin/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
  --no-loadscope-reorder "${selection[@]}" "$@"

# Sourced by the other scripts of this folder: finds a Python, creates .venv, installs the
# package.
# make_environment EXTRAS [FOLDER]   e.g. make_environment "" or make_environment "[dev]";
#     FOLDER, by default .venv, is for extras whose requirements exclude those of others
#
# use_cpu: selects the CPU as JAX's platform, unless GLIDE_JAX_PLATFORMS names another or is
#     empty, and lets glibc request huge pages: a training step takes an eighth less time.
#     A GLIBC_TUNABLES that is set is not changed.
#
# On machines without a supported Python (images of TPU VMs have 3.10) uv installs one,
# without root: pip installs uv into a temporary folder, and uv downloads a standalone CPython
# from its publisher's releases (github.com/astral-sh/python-build-standalone, or the mirror
# in UV_PYTHON_INSTALL_MIRROR) into ~/.local/share/uv, which .venv refers to.

UV="uv>=0.5,<1"
NEW_PYTHON=3.12 # the version that uv installs

# find_python: prints a supported Python; fails without one.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.12 python3.11 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c \
      'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

use_cpu() {
  export JAX_PLATFORMS="${GLIDE_JAX_PLATFORMS-cpu}"
  export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
}

make_environment() {
  local extras="$1" venv="${2:-.venv}" stamp python
  stamp="$venv/.installed$extras"
  # Installed once, and again after a change of setup.py.
  if [ -e "$stamp" ] && [ "$stamp" -nt setup.py ]; then
    return
  fi
  if [ ! -x "$venv/bin/python" ]; then
    if python=$(find_python); then
      echo "Creating $venv with $("$python" --version)"
      if ! "$python" -m venv "$venv"; then
        echo "python -m venv failed; on Debian: apt-get install python3-venv" >&2
        rm -rf "$venv"
        return 2
      fi
    elif ! make_venv_by_uv "$venv"; then
      rm -rf "$venv"
      echo "Python 3.11 or 3.12 is not installed, and uv could not install it; install it, or set its path: PYTHON=/path/to/python3.12" >&2
      return 2
    fi
  fi
  echo "Installing glide_jax$extras into $venv (a few minutes the first time)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".$extras" || return
  touch "$stamp"
}

# make_venv_by_uv FOLDER: creates it, with pip, from a Python that uv installs.
make_venv_by_uv() {
  local venv="$1" uv folder="" code=0
  echo "Python 3.11 or 3.12 is not installed: uv downloads Python $NEW_PYTHON for $venv"
  if ! uv="$(command -v uv)"; then
    folder="$(mktemp -d)"
    uv="$folder/bin/uv"
    python3 -m pip install --quiet --disable-pip-version-check --target "$folder" "$UV" || code=$?
  fi
  [ "$code" -ne 0 ] || "$uv" venv --quiet --no-project --python "$NEW_PYTHON" "$venv" || code=$?
  [ "$code" -ne 0 ] || "$venv/bin/python" -m ensurepip >/dev/null || code=$?
  [ -z "$folder" ] || rm -rf "$folder"
  return "$code"
}

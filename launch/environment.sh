# Sourced by the scripts beside it: finds a Python, makes .venv, installs the package.
# make_environment EXTRAS   e.g. make_environment "" or make_environment "[dev]"
#
# Machines with another Python alone (images of TPU VMs have 3.10) get a supported one from
# uv. Nothing of that needs root: pip takes uv from the package index into a folder that is
# deleted again, and uv downloads a standalone CPython from its publisher's releases
# (github.com/astral-sh/python-build-standalone; UV_PYTHON_INSTALL_MIRROR names another
# place) into ~/.local/share/uv, where .venv refers to it.

UV="uv>=0.5,<1"
NEW_PYTHON=3.12 # what uv installs

# find_python: prints a Python that the package runs on; fails without one.
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

make_environment() {
  local extras="$1" stamp python
  stamp=".venv/.installed$extras"
  # Installed once, and again after setup.py has changed.
  if [ -e "$stamp" ] && [ "$stamp" -nt setup.py ]; then
    return
  fi
  if [ ! -x .venv/bin/python ]; then
    if python=$(find_python); then
      echo "Making .venv with $("$python" --version)"
      if ! "$python" -m venv .venv; then
        echo "python -m venv failed; on Debian: apt-get install python3-venv" >&2
        rm -rf .venv
        return 2
      fi
    elif ! make_venv_by_uv; then
      rm -rf .venv
      echo "No Python 3.11 or 3.12 here, and uv could not install one; install one, or name it: PYTHON=/path/to/python3.12" >&2
      return 2
    fi
  fi
  echo "Installing glide_jax$extras into .venv (a few minutes the first time)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras" || return
  touch "$stamp"
}

# make_venv_by_uv: .venv with pip, of a Python that uv installs.
make_venv_by_uv() {
  local uv folder="" code=0
  echo "No Python 3.11 or 3.12 here: uv downloads Python $NEW_PYTHON for .venv"
  if ! uv="$(command -v uv)"; then
    folder="$(mktemp -d)"
    uv="$folder/bin/uv"
    python3 -m pip install --quiet --disable-pip-version-check --target "$folder" "$UV" || code=$?
  fi
  [ "$code" -ne 0 ] || "$uv" venv --quiet --no-project --python "$NEW_PYTHON" .venv || code=$?
  [ "$code" -ne 0 ] || .venv/bin/python -m ensurepip >/dev/null || code=$?
  [ -z "$folder" ] || rm -rf "$folder"
  return "$code"
}

# Sourced by the scripts beside it: finds a Python, makes .venv, installs the package.
# make_environment EXTRAS   e.g. make_environment "" or make_environment "[dev]"

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
  echo "No Python 3.11 or 3.12 found; install one, or name it: PYTHON=/path/to/python3.12 $0" >&2
  return 2
}

make_environment() {
  local extras="$1" stamp python
  stamp=".venv/.installed$extras"
  # Installed once, and again after setup.py has changed.
  if [ -e "$stamp" ] && [ "$stamp" -nt setup.py ]; then
    return
  fi
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python) || return
    echo "Making .venv with $("$python" --version)"
    if ! "$python" -m venv .venv; then
      echo "python -m venv failed; on Debian: apt-get install python3-venv" >&2
      rm -rf .venv
      return 2
    fi
  fi
  echo "Installing glide_jax$extras into .venv (a few minutes the first time)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras" || return
  touch "$stamp"
}

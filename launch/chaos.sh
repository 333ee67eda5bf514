#!/usr/bin/env bash
# A soak that shows what a training run survives: two processes of launch/local.sh train
# under signals, kills, a full disk, damaged checkpoints and damaged shards, and are
# started again on the exit codes that mean it. Then the same run is made once more, left
# alone, and everything that the two leave is compared, bit for bit.
#
#   launch/chaos.sh [--minutes=15] [--seed=N] [--output=FOLDER]
#
# --minutes  how long the run is disturbed; the one that is left alone comes on top (15)
# --seed     of what is done when; drawn and shown unless given
# --output   an empty folder for report.md, report.json, the runs and their logs (a new
#            one under /tmp)
#
# Exit code: 0 if the two are equal, 1 if not or if a process ended as it should not have,
# 2 for a mistake. It listens on the loopback only and ends every process it has started.
# As root on Linux the run lies on a small disk of its own, which is really full then;
# else no file may grow.
set -euo pipefail
cd "$(dirname "$0")/.."
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^set/{s/^# \{0,1\}//p}' launch/chaos.sh && exit ;; esac
. launch/environment.sh
[ -n "${VIRTUAL_ENV:-}" ] || make_environment "[dev]"

# In a mount namespace of its own, so that the disk is gone with the last process.
own=()
if unshare --mount mount -t tmpfs none /mnt 2>/dev/null; then
  own=(unshare --mount)
  export GLIDE_JAX_CHAOS_MOUNTS=own
fi
export JAX_PLATFORMS=cpu PYTHONPATH="$PWD"
exec ${own[@]+"${own[@]}"} "${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m tests.chaos "$@"

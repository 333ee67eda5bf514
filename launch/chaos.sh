#!/usr/bin/env bash
# A soak test of fault tolerance: two processes of launch/local.sh train under signals, kills,
# a full disk, damaged checkpoints and damaged shards, and are restarted after retryable exit
# codes. Then the same run is repeated without disturbance, and all outputs of the two are
# compared bit for bit.
#
#   launch/chaos.sh [--minutes=15] [--local_every=N] [--seed=N] [--output=FOLDER]
#   launch/chaos.sh --kills=N [--seed=N] [--output=FOLDER]
#
# --minutes  duration of the disturbed run, without the undisturbed one (default: 15)
# --local_every  steps between checkpoints on the local disks of the two processes, which are
#            emptied and damaged as well; 0: none (default)
# --kills    instead of the soak: kills one process, and for every second time its local disk,
#            N times in a run with local checkpoints and N times in one without; writes the
#            steps lost and the seconds that training waited for checkpoints to lost_steps.md
# --seed     of the disturbances; default: random, and printed
# --output   an empty folder for report.md, report.json, the runs and their logs (default: a
#            new one under /tmp)
#
# Exit code: 0 if the two are equal, 1 if not or if a process exited with an unexpected code,
# 2 for a user error. It listens on the loopback interface only and ends all its processes.
# As root on Linux the run is on a small file system of its own, which is filled up; otherwise
# a full disk is simulated by a limit of the file size.
set -euo pipefail
cd "$(dirname "$0")/.."
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^set/{s/^# \{0,1\}//p}' launch/chaos.sh && exit ;; esac
. launch/environment.sh
[ -n "${VIRTUAL_ENV:-}" ] || make_environment "[dev]"

# In a mount namespace of its own, so that the file system vanishes with the last process.
own=()
if unshare --mount mount -t tmpfs none /mnt 2>/dev/null; then
  own=(unshare --mount)
  export GLIDE_JAX_CHAOS_MOUNTS=own
fi
export JAX_PLATFORMS=cpu PYTHONPATH="$PWD"
exec ${own[@]+"${own[@]}"} "${VIRTUAL_ENV:-$PWD/.venv}/bin/python" -m tests.chaos "$@"

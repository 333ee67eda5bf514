#!/usr/bin/env bash
# Submits a run to Slurm. The checkout must be on a file system that all nodes share.
#
#   launch/slurm.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --nodes=16 --gpus=8 --chip=h100 --partition=gpu --time=2-00:00:00
#
# --nodes      number of nodes (default: 1)
# --gpus       GPUs per node, with one process each, as JAX expects under Slurm (default: none)
# --tasks      processes per node without GPUs (default: 1)
# --cpus       cores of a node, divided evenly among its processes. Default: the cores of the
#              partition's smallest node according to sinfo, divided by its GPUs (without
#              GPUs: by --tasks), per process
# --mem        memory of a node, such as 64G, or 0 for all of it; default: the cluster's
# --chip       kind of chip; required with --gpus. It selects the environment and the compiler
#              flags, which `glide flags --chip=...` shows (default: cpu)
# --partition --account --time   passed to sbatch; set its other options by its environment
#              variables, such as SBATCH_QOS
#
# The job requeues itself after retryable exit codes, and Slurm requeues it if a node fails.
# Three minutes before the time limit it saves and requeues itself. A preempted or requeued
# run has KillWait seconds to save (slurm.conf; default: 30): raise it if saving takes longer.
#
#   launch/slurm.sh status --name=base64
#   launch/slurm.sh stop --name=base64
#
# Both apply to your jobs of that name, including those of a sweep. stop cancels pending jobs;
# running jobs have three minutes to save and are not requeued.
set -euo pipefail
. "$(dirname "$0")/common.sh"

# find_cpus: sets cpus_per_process from sinfo; leaves it empty, with a warning, if sinfo fails.
find_cpus() {
  local of cpus gres share part="${partition:-${SBATCH_PARTITION:-}}"
  while read -r of cpus gres; do
    [[ -n "$part" || "$of" == *'*' ]] || continue # the default partition has a star
    share="$tasks"
    if [ -n "$gpus" ]; then
      [[ "$gres" =~ gpu:([^,:\(]+:)?([0-9]+) ]] || continue
      ((BASH_REMATCH[2] <= share)) || share="${BASH_REMATCH[2]}"
    fi
    cpus=$((cpus / share > 0 ? cpus / share : 1))
    [ -n "$cpus_per_process" ] && [ "$cpus_per_process" -le "$cpus" ] || cpus_per_process="$cpus"
  done < <(timeout 20 sinfo --noheader --Node ${part:+"--partition=$part"} --format="%P %c %G" 2>/dev/null)
  [ -n "$cpus_per_process" ] ||
    echo "slurm.sh: sinfo lists no node of the partition, so processes get the cluster's default number of cores, possibly one; set it with --cpus=N" >&2
}

read_flags "nodes gpus tasks cpus mem chip partition account time" "" "$@"
if [ -n "$action" ]; then
  check_name "$HOST_NAME" "$HOST_NAME_RULE"
  need_program squeue "run this on a login node of the cluster"
  control squeue "of yours in the queue; logs of finished runs are in WORKDIR/logs" \
    "squeue --me --name=$name --noheader --format='job %i: %T for %M (limit %l), nodes: %D %R'" \
    "$(render slurm_stop.sh "NAME=$name")"
fi
nodes="${nodes:-1}" tasks="${tasks:-${gpus:-1}}" chip="${chip:-cpu}"
check_run "$HOST_NAME" "$HOST_NAME_RULE"
workdir="${workdir:-runs/$name}"
check_workdir path gs s3
check_chip
[[ "$time" =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ || -z "$time" ]] ||
  die "--time=$time is not a time limit of sbatch; use MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS"
check_number nodes 1
[ -z "$gpus" ] || check_number gpus 1
check_number tasks 1
[ "${gpus:-$tasks}" -eq "$tasks" ] ||
  die "--tasks=$tasks is not --gpus=$gpus, but each process has one GPU; leave --tasks out"
[[ "$mem" =~ ^(0|[1-9][0-9]{0,8}[KMGT])?$ ]] ||
  die "--mem=$mem is not an amount of memory; use a number with a unit, such as 64G (K, M, G or T), or 0 for all of it"
# Relative to the checkout, which has the same path on all nodes.
logs="$workdir/logs"
[[ "$workdir" != *://* ]] || logs="runs/$name/logs"
need_program sbatch "run this on a login node of the cluster"

cpus_per_process=""
if [ -n "$cpus" ]; then
  check_number cpus 1
  cpus_per_process=$((cpus / tasks))
  [ $((cpus_per_process * tasks)) -eq "$cpus" ] ||
    die "--cpus=$cpus cannot be divided evenly among the $tasks processes of a node; use a multiple of $tasks"
else
  find_cpus
fi
[ -z "$gpus" ] || [[ "$chip" != cpu ]] ||
  die "--gpus=$gpus: --chip=cpu has no GPUs; set the chip, such as --chip=h100"
check_settings $((nodes * tasks))
host_command "--chip=$chip" --grace=170 "--codes=$logs"
script="$(render slurm.sbatch "NAME=$name" "NODES=$nodes" "TASKS=$tasks" "ROOT=$ROOT" \
  "LOGS=$logs" "RESTARTS=$restarts" \
  "CPUS=${cpus_per_process:+#SBATCH --cpus-per-task=$cpus_per_process}" \
  "MEM=${mem:+#SBATCH --mem=$mem}" \
  "GPUS=${gpus:+#SBATCH --gpus-per-node=$gpus}" \
  "PARTITION=${partition:+#SBATCH --partition=$partition}" \
  "ACCOUNT=${account:+#SBATCH --account=$account}" \
  "TIME=${time:+#SBATCH --time=$time}" "COMMAND=$(quoted "${command[@]}")")"
if [ -n "$dry_run" ]; then
  show "mkdir -p $logs && sbatch, with this script on its standard input" "$script"
  exit
fi
cd "$ROOT"
mkdir -p "$logs"
sbatch <<<"$script"

#!/usr/bin/env bash
# Submits a run to Slurm, from a checkout on a file system that all nodes share.
#
#   launch/slurm.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --nodes=16 --gpus=8 --chip=h100 --partition=gpu --time=2-00:00:00
#
# --nodes      how many (1)
# --gpus       GPUs a node, with one process for each, as JAX expects under Slurm (none)
# --tasks      processes a node where there are no GPUs (1)
# --chip       which compiler flags: `glide flags --chip=...` shows them (cpu)
# --partition --account --time   as sbatch has them; its other options are taken from its
#              environment variables, such as SBATCH_QOS
#
# The job requeues itself, and is requeued by Slurm when a node fails. Three minutes
# before the time limit it saves and requeues too. A preempted or requeued run has
# KillWait seconds to save (slurm.conf; 30 unless set): raise it where saving takes longer.
set -euo pipefail
. "$(dirname "$0")/common.sh"

read_flags "nodes gpus tasks chip partition account time" "$@"
nodes="${nodes:-1}" tasks="${tasks:-${gpus:-1}}" chip="${chip:-cpu}"
check_run "$HOST_NAME" "$HOST_NAME_RULE"
workdir="${workdir:-runs/$name}"
check_workdir path gs s3
check_chip
check_number nodes 1
[ -z "$gpus" ] || check_number gpus 1
check_number tasks 1
[ "${gpus:-$tasks}" -eq "$tasks" ] ||
  die "--tasks=$tasks is not --gpus=$gpus: each process has one GPU; leave --tasks out"
# Relative to the checkout, whose path all nodes share.
logs="$workdir/logs"
[[ "$workdir" != *://* ]] || logs="runs/$name/logs"
need_program sbatch "run this on a login node of the cluster"

host_command "--chip=$chip" --grace=170 "--codes=$logs"
script="$(render slurm.sbatch "NAME=$name" "NODES=$nodes" "TASKS=$tasks" "ROOT=$ROOT" \
  "LOGS=$logs" "RESTARTS=$restarts" \
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

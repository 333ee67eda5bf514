set -euo pipefail
# Pending jobs are cancelled.
scancel --me --name=@NAME@ --state=PENDING
# Running jobs are not requeued; training saves a checkpoint on the signal.
for job in $(squeue --me --name=@NAME@ --states=RUNNING --noheader --format=%i); do
  scontrol update "JobId=$job" Requeue=0
  scancel --signal=TERM "$job"
  echo "job $job saves a checkpoint and exits"
done

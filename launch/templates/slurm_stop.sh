set -euo pipefail
# Those that wait do not start any more.
scancel --me --name=@NAME@ --state=PENDING
# Those that run may no longer be requeued; training saves itself on the signal.
for job in $(squeue --me --name=@NAME@ --states=RUNNING --noheader --format=%i); do
  scontrol update "JobId=$job" Requeue=0
  scancel --signal=TERM "$job"
  echo "job $job saves itself and ends"
done

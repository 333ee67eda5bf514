set -euo pipefail
# gcloud's own output is discarded.
gcloud compute tpus tpu-vm ssh @SLICE@ @WHERE@ --worker=all \
  --command="[ ! -d ~/@NAME@ ] || { cd ~/@NAME@ && launch/host_runs.sh @ACTION@ @NAME@; }" |
  sed -n '/^@NAME@ on /p'

set -uo pipefail
code=0
for host in @HOSTS@; do
  # A host without a copy of the checkout has no run.
  ssh -n "$host" "[ ! -d @FOLDER@ ] || { cd @FOLDER@ && launch/host_runs.sh @ACTION@ @NAME@; }" || {
    echo "$host: ssh failed with code $?" >&2
    code=1
  }
done
exit "$code"

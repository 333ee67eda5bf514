set -uo pipefail
code=0
for host in @HOSTS@; do
  # No copy of the checkout there: no run either.
  ssh -n "$host" "[ ! -d @FOLDER@ ] || { cd @FOLDER@ && launch/host_runs.sh @ACTION@ @NAME@; }" || {
    echo "$host: ssh failed with code $?" >&2
    code=1
  }
done
exit "$code"

#!/usr/bin/env bash
# Submits `glide data prepare` to a cluster: Flink, Spark, Dask or Google Cloud Dataflow.
#
#   launch/prepare.sh --config=experiments/data/prepare.py --output=/nfs/prepared \
#       --config.data.sources=webdataset:/nfs/raw --runner=flink --master=flink:8081 \
#       --image=registry.example/glide_jax --workers=64
#   launch/prepare.sh --config=experiments/data/prepare.py --output=/mnt/prepared \
#       --config.data.sources=webdataset:/mnt/raw --runner=dataflow --project=my-project \
#       --region=europe-west4 --temp=gs://my-bucket/temp \
#       --image=europe-docker.pkg.dev/my-project/glide/prepare --workers=100
#
# --runner   flink, spark, dask or dataflow
# --master   address of Flink (HOST:8081), Spark (spark://HOST:7077) or Dask's scheduler
# --image    container image of the workers with this package and its extra [prepare], made
#            from apache/beam_python3.11_sdk:2.77.0; not for Dask, whose workers have it
# --workers  number of workers, or of parallel tasks (default: 16)
# --jar      Beam's job server for Flink or Spark; without it Beam downloads it from Maven
# --project --region --temp   of Dataflow
# --dry_run  prints the command, and exits
#
# The command runs here until the job ends, and the same command continues one that was
# killed. All workers reach the sources and the output by the same absolute paths.
set -euo pipefail
. "$(dirname "$0")/common.sh"

COMMON_FLAGS="config dry_run"
read_flags "output runner master image workers jar project region temp" "" "$@"
[ -z "$action" ] || die "$action is not an action here; the job ends with its command"
need config experiments/data/prepare.py output /nfs/prepared runner flink
workers="${workers:-16}"
check_number workers 1
[[ "$output" == /* ]] || die "--output=$output is not an absolute path, as workers need"

# refuse FLAG ...: exits with an error if a flag of another engine is given.
refuse() {
  local flag
  for flag in "$@"; do
    [ -z "${!flag}" ] || die "--$flag=${!flag} is not a flag of --runner=$runner; leave it out"
  done
}

case "$runner" in
  flink)
    refuse project region temp
    need master flink:8081 image registry.example/glide_jax
    options=("--flink_master=$master" "--parallelism=$workers" --environment_type=DOCKER
      "--environment_config=$image" ${jar:+"--flink_job_server_jar=$jar"})
    ;;
  spark)
    refuse project region temp
    need master spark://spark:7077 image registry.example/glide_jax
    options=("--spark_master_url=$master" --environment_type=DOCKER
      "--environment_config=$image" ${jar:+"--spark_job_server_jar=$jar"})
    ;;
  dask)
    refuse project region temp image jar
    need master scheduler:8786
    options=("--dask_client_address=$master" "--dask_npartitions=$workers")
    ;;
  dataflow)
    refuse master jar
    need project my-project region europe-west4 temp gs://my-bucket/temp image IMAGE
    options=("--project=$project" "--region=$region" "--temp_location=$temp"
      "--sdk_container_image=$image" --experiments=use_runner_v2 "--num_workers=$workers"
      "--max_num_workers=$workers" --autoscaling_algorithm=NONE)
    ;;
  *) die "--runner=$runner is not one of flink, spark, dask, dataflow" ;;
esac

command=(glide data prepare "--config=$config" "--output=$output" "--runner=$runner"
  "--runner_options=$(quoted "${options[@]}")" ${settings[@]+"${settings[@]}"})
if [ -n "$dry_run" ]; then
  show "here, in the environment of the extra [prepare]" "$(quoted "${command[@]}")"
  exit
fi
need_program glide "activate the environment of the extra [prepare]"
exec "${command[@]}"

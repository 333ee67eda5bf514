#!/usr/bin/env bash
# Applies a JobSet to a GKE cluster with TPU slices and the JobSet operator.
#
#   docker build -t REGISTRY/glide_jax -f launch/Dockerfile . && docker push REGISTRY/glide_jax
#   launch/gke.sh --config=experiments/configs/base64.py:paper --name=base64 \
#       --tpu=v5p:4x4x8 --slices=2 --image=REGISTRY/glide_jax --workdir=gs://my-bucket/runs/base64
#
# --tpu      a slice, by the cloud's name or by its shape
# --slices   number of slices, one job each (default: 1)
# --image    image of this checkout and its environment; launch/Dockerfile.dockerignore lists
#            its files, so put your own --config into experiments/configs
# --capacity spot, reserved or on_demand (default: on_demand)
# --service_account  of the pods, with access to the bucket; required for gs://
# --namespace        default: kubectl's
#
# --mount mounts a gs:// workdir by the cluster's Cloud Storage FUSE driver; a path must be
# provided by the image or the nodes. After a retryable exit code all jobs restart together,
# after any other they fail at once. Pods have ten minutes to save.
#
#   launch/gke.sh status --name=base64 [--namespace=...]
#   launch/gke.sh stop --name=base64 [--namespace=...]
#
# stop deletes the JobSet; its pods save a checkpoint before they are deleted.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$ROOT/launch/restart.sh"
. "$ROOT/launch/tpu.sh"

read_flags "tpu slices image capacity service_account namespace" "namespace" "$@"
kubectl=(kubectl ${namespace:+"--namespace=$namespace"})
if [ -n "$action" ]; then
  check_name "$CLOUD_NAME" "$CLOUD_NAME_RULE"
  need_program kubectl "install it (gcloud components install kubectl)"
  control kubectl "among the cluster's JobSets" "set -euo pipefail
found=\"\$($(quoted "${kubectl[@]}") get jobset $name --ignore-not-found)\"
if [ -n \"\$found\" ]; then
  echo \"\$found\"
  $(quoted "${kubectl[@]}") get pods --selector=jobset.sigs.k8s.io/jobset-name=$name
fi" "$(quoted "${kubectl[@]}") delete jobset $name --wait=false"
fi
slices="${slices:-1}" capacity="${capacity:-on_demand}"
check_run "$CLOUD_NAME" "$CLOUD_NAME_RULE" tpu v5p:4x4x8 image REGISTRY/glide_jax \
  workdir "gs://BUCKET/runs/${name:-base64}"
check_number slices 1
read_tpu
[ -n "$gke_accelerator" ] || die "--tpu=$tpu: GKE has no $chip; use launch/tpu_vm.sh or launch/queued_resource.sh"
check_workdir absolute gs
case "$capacity" in
  on_demand) selector="" ;;
  spot) selector='cloud.google.com/gke-spot: "true"' ;;
  reserved) selector="cloud.google.com/reservation-affinity: any" ;;
  *) die "--capacity=$capacity is not one of spot, reserved, on_demand" ;;
esac
[[ "$workdir" != gs://* ]] || need service_account glide
bucket="" folder=""
if is_mounted gs; then
  path="${workdir#gs://}"
  bucket="${path%%/*}" folder="/mnt/$bucket"
  workdir="/mnt/$path" mount=""
fi
need_program kubectl "install it (gcloud components install kubectl)"
# The image has the checkout in another folder.
config="${config#"$ROOT/"}"
[[ -z "$config" || "$config" == experiments/* ]] ||
  echo "gke.sh: --config=$config is not copied by launch/Dockerfile; the image must have it at this path" >&2

check_settings $((devices * slices)) "$slices"
host_command "--chip=$chip" "--slices=$slices" --grace=570
retryable="$(for code in {0..255}; do if is_retryable "$code"; then echo "$code"; fi; done | paste -sd,)"
manifest="$(render gke.yaml "NAME=$name" "SLICES=$slices" "HOSTS=$hosts" "IMAGE=$image" \
  "RESTARTS=$restarts" "RETRYABLE=$retryable" "ACCELERATOR=$gke_accelerator" "SHAPE=$shape" \
  "CHIPS=$chips_per_host" "COMMAND=$(yaml_list 14 "${command[@]}")" \
  "SELECTOR=${selector:+              $selector}" \
  "ACCOUNT=${service_account:+            serviceAccountName: $service_account}" \
  "ANNOTATIONS=${bucket:+          metadata:
            annotations:
              gke-gcsfuse/volumes: \"true\"}" \
  "MOUNTS=${bucket:+              volumeMounts:
              - name: bucket
                mountPath: $folder}" \
  "VOLUMES=${bucket:+            volumes:
            - name: bucket
              csi:
                driver: gcsfuse.csi.storage.gke.io
                volumeAttributes:
                  bucketName: $bucket
                  hostNetworkPodKSA: \"true\"
                  mountOptions: implicit-dirs,rename-dir-limit=200000,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0}")"
apply=("${kubectl[@]}" apply -f -)
if [ -n "$dry_run" ]; then
  show "${apply[*]}, with this manifest on its standard input" "$manifest"
  exit
fi
"${apply[@]}" <<<"$manifest"

# Sourced by run_on_host.sh: mounts a bucket as a folder, for --mount and for the verbs whose
# hosts write into one folder. Without it `glide train` uses the object store itself.
#
# gs://  with gcsfuse (https://cloud.google.com/storage/docs/gcs-fuse). Metadata are not
#        cached, so that each host sees the files of the others at once. Use a bucket with a
#        hierarchical namespace: a checkpoint is completed by renaming its folder, which is
#        atomic there. Other buckets (and s3://) rename object by object; an interrupted
#        rename leaves a damaged checkpoint, and the run resumes from the previous one.
# s3://  with s3fs, the only S3 file system that supports appending and renaming. It uploads
#        the whole file at each close, so use log.every_steps in the hundreds. Credentials:
#        ~/.passwd-s3fs, ~/.aws, or the machine's role with
#        GLIDE_JAX_S3FS_OPTIONS=iam_role=auto; services other than Amazon's with
#        GLIDE_JAX_S3FS_OPTIONS=url=https://...
#
# Neither is a POSIX file system; NFS (Filestore, EFS, Lustre) is more robust.

# mount_workdir WORKDIR: prints the folder of a workdir, after mounting its bucket if it has one.
mount_workdir() {
  local scheme="${1%%://*}" bucket path folder
  if [ "$scheme" = "$1" ]; then
    echo "$1"
    return
  fi
  bucket="${1#*://}"
  path="${bucket#*/}"
  bucket="${bucket%%/*}"
  folder="${TMPDIR:-/tmp}/glide_jax.$(id -u)/$scheme/$bucket"
  mkdir -p "$folder"
  if ! mountpoint -q "$folder"; then
    "mount_$scheme" "$bucket" "$folder" >&2 || return 2
  fi
  echo "$folder/$path"
}

mount_gs() {
  need_file_system gcsfuse || return 2
  gcsfuse --implicit-dirs --rename-dir-limit=200000 \
    --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$1" "$2"
}

mount_s3() {
  need_file_system s3fs || return 2
  s3fs "$1" "$2" -o stat_cache_expire=1 -o disable_noobj_cache \
    ${GLIDE_JAX_S3FS_OPTIONS:+-o "$GLIDE_JAX_S3FS_OPTIONS"}
}

# keep_log LOG WORKDIR: uploads the log of a host whose workdir is in a bucket, with the
# cloud's own program, and prints its path.
keep_log() {
  local there
  there="$2/logs/$(basename "$1")"
  case "$2" in
    gs://*) gcloud storage cp "$1" "$there" >/dev/null 2>&1 ;;
    s3://*) aws s3 cp "$1" "$there" >/dev/null 2>&1 ;;
    *) false ;;
  esac && echo "the log is $there"
}

need_file_system() {
  command -v "$1" >/dev/null && return
  echo "$1 is not installed on $(hostname); install it in --setup, or use a --workdir on a shared disk"
  return 2
}

# Sourced by run_on_host.sh: makes a bucket a folder, since `glide train` writes files.
#
# gs://  by gcsfuse (https://cloud.google.com/storage/docs/gcs-fuse). Metadata are not
#        cached, so that a host sees at once what another wrote. Take a bucket with a
#        hierarchical namespace: a checkpoint ends with the renaming of its folder, which
#        other buckets (and s3://) do object by object; one cut off in it is found damaged,
#        and the run goes on from the one before.
# s3://  by s3fs, the one of the S3 file systems that can append and rename (metrics grow,
#        config.json is put in place whole). It uploads a file anew at each close, so keep
#        log.every_steps in the hundreds. Credentials: ~/.passwd-s3fs, ~/.aws, or the
#        machine's role with GLIDE_JAX_S3FS_OPTIONS=iam_role=auto; other services than
#        Amazon's with GLIDE_JAX_S3FS_OPTIONS=url=https://...
#
# Neither is a POSIX file system; NFS (Filestore, EFS, Lustre) is the safer place.

# mount_workdir WORKDIR: prints the folder; mounts its bucket if it is in one.
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

# keep_log LOG WORKDIR: puts the log of a host that cannot write its workdir beside those that
# can, with the cloud's own program; says where it is.
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
  echo "$1 is not on $(hostname); install it in --setup, or name a --workdir on a shared disk"
  return 2
}

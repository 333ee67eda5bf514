# Sourced by the launchers: parses and checks their flags, renders a template, and prints
# (--dry_run) or runs it.
#
#   launch/ENGINE.sh --config=FILE[:SIZE] --name=NAME [--workdir=WHERE] [--restarts=N]
#       [--setup=COMMAND] [--config.section.key=value ...] [flags of the engine]
#       [--mount] [--dry_run] [--nocheck]
#   launch/ENGINE.sh --name=NAME [--workdir=WHERE] [flags as above] -- VERB [flags of VERB]
#   launch/ENGINE.sh status --name=NAME [location flags of the engine] [--dry_run]
#   launch/ENGINE.sh stop --name=NAME [location flags of the engine] [--dry_run]
#
# --workdir   the run's folder, shared by all hosts: a path (local disk for one host, NFS
#             for several), gs://BUCKET/PATH or s3://BUCKET/PATH
# --mount     mounts the bucket as a folder (see workdir.sh); without it `glide train` uses the
#             object store itself, and the second form below mounts in any case
# --restarts  maximum number of restarts after a retryable exit code: 42 (stopped by a signal,
#             everything saved) or 128 and above (lost); default: 100
# --setup     a shell command that every host runs first, e.g. to mount a share
# --dry_run   prints what would run, and exits
# --nocheck   skips the check of the settings, which takes a few seconds: `glide train
#             --dry_run --devices=N` runs on this machine, for the run's number of devices,
#             before anything is submitted. Without an environment (VIRTUAL_ENV or .venv) the
#             check is skipped with a warning
#
# The second form draws or judges pictures on all hosts instead of training: VERB is sample,
# inpaint, edit, upsample or evaluate, and --workdir is its --output. Its flags are checked on
# the hosts, before anything is drawn.
#
# status  shows the run. Exit code: 0 if the run exists, 1 if not, 2 for a user error or a
#         failure of the engine's program
# stop    stops the run, which saves a checkpoint first. It exits with code 42 and is not
#         restarted; the command that started it resumes it. Exit codes as for status
#
# Launchers that copy the checkout copy the files that git tracks, as they are in the working
# tree, and report the files that are not copied (see code.sh).
#
# User errors are reported in one line, with exit code 2.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
COMMON_FLAGS="config name workdir restarts setup mount dry_run nocheck"
SWITCHES=" mount dry_run nocheck " # flags without a value

die() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# read_flags "FLAGS OF THE ENGINE" "FLAGS OF status AND stop" "$@": sets $some_flag for
# --some_flag=value, the other flags to ""; collects --config.KEY=VALUE in the array
# `settings` and the words after -- in the array `work`; sets $action to status, stop or "".
read_flags() {
  local known="$COMMON_FLAGS $1" argument key given=" " own word
  for key in $known; do printf -v "$key" '%s' ''; done
  settings=() work=() action=""
  if [[ "${3:-}" == status || "${3:-}" == stop ]]; then
    action="$3" known="name dry_run $2"
    shift
  fi
  shift 2
  split_work "$@"
  set -- "${@:1:$own}"
  [[ -z "$action" || ${#work[@]} -eq 0 ]] ||
    die "$action takes no command; leave out -- and what follows"
  for argument in "$@"; do
    case "$argument" in
      *$'\n'*) die "${argument%%$'\n'*}... has a line break; give each flag in one line" ;;
      --help | -h) show_usage && exit 0 ;;
    esac
    key="${argument%%=*}"
    [[ "$given" != *" $key "* ]] || die "$key is given twice; give it once"
    given+="$key "
    key="${key#--}"
    if [[ "$argument" == --config.*=* && -z "$action" ]]; then
      settings+=("$argument")
    elif [[ "$argument" == "--$key" && "$SWITCHES" == *" $key "* && " $known " == *" $key "* ]]; then
      printf -v "$key" yes
    elif [[ "$argument" != --*=* || " $known " != *" $key "* || "$SWITCHES" == *" $key "* ]]; then
      if [[ "$argument" == --* && "$argument" != *=* && " $known " == *" $key "* ]]; then
        die "$argument has no value; use --$key=VALUE"
      fi
      if [[ "$argument" != -* ]]; then
        die "$argument is not an action or a flag; use status, stop or --FLAG=VALUE with one of --${known// / --}"
      fi
      die "$argument is not a flag${action:+ of $action}; use --FLAG=VALUE with one of --${known// / --}"
    else
      [ -n "${argument#*=}" ] || die "$argument has no value; give one, or leave it out"
      printf -v "$key" '%s' "${argument#*=}"
    fi
  done
  restarts="${restarts:-100}"
}

# split_work "$@": sets the array `work` to the words after the first --, and $own to the number
# of words before them. --dry_run and --nocheck are the launcher's wherever they are.
split_work() {
  own=0
  while [[ $# -gt 0 && "$1" != -- ]]; do
    own=$((own + 1))
    shift
  done
  for word in "${@:2}"; do
    case "$word" in
      --dry_run | --nocheck) printf -v "${word#--}" yes ;;
      *) work+=("$word") ;;
    esac
  done
  [ ${#work[@]} -gt 0 ] || own=$((own + ($# > 0)))
}

# check_work: exits with an error unless `work` is a verb that several hosts share, with flags.
check_work() {
  local word
  case "${work[0]}" in
    sample | inpaint | edit | upsample | evaluate) ;;
    *) die "${work[0]} is not a verb that hosts share; after -- use sample, inpaint, edit, upsample or evaluate, or --config instead to train" ;;
  esac
  [[ -z "$config" && ${#settings[@]} -eq 0 ]] ||
    die "--config is for training, and ${work[0]} is given after --; leave one of them out"
  for word in "${work[@]:1}"; do
    [[ "$word" != --output && "$word" != --output=* ]] ||
      die "$word: the output of ${work[0]} is --workdir; leave it out"
    [[ "$word" == --* ]] || die "$word is not a flag of ${work[0]}; write --FLAG=VALUE"
    [[ "$word" != *$'\n'* ]] || die "${word%%$'\n'*}... has a line break; give each flag in one line"
  done
}

# show_usage: prints the header comments of the called script and of this file.
show_usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
  echo
  sed -n '4,/^[^#]/{s/^# \{0,1\}//p}' "$ROOT/launch/common.sh"
}

# need FLAG EXAMPLE ...: exits with an error that names all of these flags that are not given.
need() {
  local missing="" examples=""
  while [ $# -gt 0 ]; do
    if [ -z "${!1}" ]; then
      missing+="${missing:+, }--$1"
      examples+=" --$1=$2"
    fi
    shift 2
  done
  case "$missing" in
    "") ;;
    *,*) die "$missing are missing, e.g.$examples" ;;
    *) die "$missing is missing, e.g.$examples" ;;
  esac
}

# check_name PATTERN RULE: checks --name by the rule of the engine.
check_name() {
  need name base64
  [[ "$name" =~ ^$1$ ]] || die "--name=$name is not a valid name; use $2"
}

# control PROGRAM WHERE STATUS STOP: runs the action `status` or `stop` and exits. STATUS and
# STOP are bash scripts. STATUS prints the state of the run, and nothing if there is no run.
# PROGRAM (the engine's) and WHERE (the place that STATUS reads) are for messages.
control() {
  local state code=0
  if [ -n "$dry_run" ]; then
    show "bash, with this script, which prints nothing if there is no run $name" "$3"
    [ "$action" = status ] || show "then, if there is one, bash, with this script" "$4"
    exit
  fi
  state="$(bash -c "$3")" || code=$?
  [ "$code" -eq 0 ] || die "$action: $1 failed with code $code; its message is above"
  if [ -z "$state" ]; then
    echo "$(basename "$0"): there is no run $name $2" >&2
    exit 1
  fi
  printf '%s\n' "$state"
  if [ "$action" = stop ]; then
    bash -c "$4" || die "stop: $1 failed with code $?; its message is above"
  fi
  exit
}

# check_run PATTERN RULE [FLAG EXAMPLE ...]: checks --config, --name and --restarts, for every
# engine, and that the engine's own FLAGs are given.
check_run() {
  local own
  expand_home config
  # A bare name refers to the project's own file, as in `glide train`.
  own="experiments/configs/$(basename "${config%%:*}" .py).py"
  if [[ "${config%%:*}" != */* && -f "$ROOT/$own" ]]; then
    config="$own${config#"${config%%:*}"}"
  fi
  [[ -z "$config" || -f "$ROOT/${config%%:*}" || ("$config" == /* && -f "${config%%:*}") ]] ||
    die "--config=$config: there is no file ${config%%:*} in $ROOT; use one such as experiments/configs/base64.py:paper"
  [ -z "$name" ] || check_name "$1" "$2"
  if [ ${#work[@]} -gt 0 ]; then
    check_work
    need name judge "${@:3}"
    check_number restarts 0
    return
  fi
  need config experiments/configs/base64.py:paper name base64 "${@:3}"
  check_number restarts 0
}

HOST_NAME='[A-Za-z0-9][A-Za-z0-9._-]{0,62}'
HOST_NAME_RULE="up to 63 letters, digits, '.', '_' and '-', such as base64"
# RFC 1123; pods, nodes and slices append up to 23 characters of 63.
CLOUD_NAME='[a-z]([-a-z0-9]{0,38}[a-z0-9])?'
CLOUD_NAME_RULE="up to 40 lowercase letters, digits and '-', starting with a letter, such as base64-run1"

# check_number FLAG LEAST
check_number() {
  [[ "${!1}" =~ ^[0-9]{1,6}$ ]] && [ "${!1}" -ge "$2" ] ||
    die "--$1=${!1} is not a whole number of $2 or more"
}

# cpu and the chips of glide_jax/parallel/chips.py; a test checks that they are equal.
CHIPS="cpu v2 v3 v4 v5e v5p v6e tpu7x a100-40gb a100-80gb h100 h100-pcie h200 b200 l4"

# check_chip: exits with an error if $chip is not one of CHIPS.
check_chip() {
  [[ " $CHIPS " == *" $chip "* ]] || die "--chip=$chip is not known; use one of $CHIPS"
}

# expand_home FLAG: expands ~ in --FLAG=~/path, which bash does not.
expand_home() {
  case "${!1}" in
    \~ | \~/*) printf -v "$1" '%s' "$HOME${!1#\~}" ;;
    \~*) die "--$1=${!1}: only ~ and ~/ are expanded; use an absolute path" ;;
  esac
}

# check_path FLAG: exits with an error if a path cannot be passed to templates and remote
# shells.
check_path() {
  [[ "${!1}" != "~"* ]] ||
    die "--$1=${!1}: ~ differs between hosts; use a path without ~"
  [[ "${!1}" =~ ^[A-Za-z0-9_./:=,@%+~-]+$ ]] ||
    die "--$1=${!1} has a character that a shell may interpret; use letters, digits and _ . / : = , @ % + ~ -"
}

# check_workdir KIND ...: checks --workdir; KINDs are those of path, absolute, gs and s3 that
# the engine supports. With "path" the hosts share the paths of this machine, so ~ is its home
# folder.
check_workdir() {
  local kind
  [[ " $* " != *" path "* ]] || expand_home workdir
  [ -z "$workdir" ] || check_path workdir
  for kind in "$@"; do
    case "$kind:$workdir" in
      path:*://*) ;;
      path:?* | absolute:/?*) return ;;
      gs:gs://* | s3:s3://*)
        [[ "$workdir" =~ ^(gs|s3)://[a-z0-9][a-z0-9._-]+/[A-Za-z0-9._/-]+$ ]] && return
        die "--workdir=$workdir is not a folder of a bucket; use one such as $kind://BUCKET/runs/$name"
        ;;
    esac
  done
  local rule=""
  for kind in "$@"; do
    case "$kind" in
      path) rule+=" or a path" ;;
      absolute) rule+=" or an absolute path that all hosts share" ;;
      *) rule+=" or $kind://BUCKET/PATH" ;;
    esac
  done
  die "--workdir=$workdir cannot be used here; use ${rule# or }"
}

# need_program NAME REMEDY: exits with an error if a program is missing, except in a dry run.
need_program() {
  [ -n "$dry_run" ] || command -v "$1" >/dev/null || die "$1 is not installed; $2, or add --dry_run to see its input"
}

# check_settings DEVICES [SLICES]: exits with an error if `glide train` rejects the settings
# for this number of devices, and of TPU slices.
check_settings() {
  local python="${VIRTUAL_ENV:-$ROOT/.venv}/bin/python" output
  if [[ -n "$nocheck" || ${#work[@]} -gt 0 ]]; then return; fi
  if ! "$python" -c 'import importlib.util as u; raise SystemExit(not (u.find_spec("jax") and u.find_spec("flax")))' 2>/dev/null; then
    echo "$(basename "$0"): the settings are not checked, because this checkout has no environment; to create it: cd $ROOT && bash -c '. launch/environment.sh && make_environment \"\"'" >&2
    return
  fi
  output="$(cd "$ROOT" && JAX_PLATFORMS=cpu "$python" -m glide_jax.cli.main train --dry_run \
    "--devices=$1" ${2:+"--slices=$2"} "--config=$config" \
    ${settings[@]+"${settings[@]}"} 2>&1 >/dev/null)" ||
    die "$(tail -n 1 <<<"$output" | sed 's/^glide train: //')"
}

# is_mounted SCHEME: whether --workdir is in a bucket of the scheme that is to be mounted.
is_mounted() {
  [[ "$workdir" == "$1"://* && (-n "$mount" || ${#work[@]} -gt 0) ]]
}

# host_command FLAG=VALUE ...: sets the array `command`, which each host runs in the checkout.
host_command() {
  command=(launch/run_on_host.sh "--name=$name" "--workdir=$workdir" "$@")
  [ -z "$mount" ] || command+=(--mount)
  [ -z "$setup" ] || command+=("--setup=$setup")
  if [ ${#work[@]} -gt 0 ]; then
    command+=(-- "${work[@]}")
  else
    command+=(-- "--config=$config" ${settings[@]+"${settings[@]}"})
  fi
}

# quoted ARGUMENT ...: prints the arguments quoted for a shell, on one line.
quoted() {
  local argument
  for argument in "$@"; do
    if [[ "$argument" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      printf '%s ' "$argument"
    elif [[ "$argument" != *\'* ]]; then
      printf "'%s' " "$argument"
    elif [[ "$argument" != *[\"\$\`\\!]* ]]; then
      printf '"%s" ' "$argument"
    else
      printf '%q ' "$argument"
    fi
  done | sed 's/ $//'
}

# yaml_list INDENT ARGUMENT ...: prints a block list of double-quoted strings. "$(" is doubled,
# since Kubernetes expands it as a variable.
yaml_list() {
  local indent="$1" argument
  shift
  for argument in "$@"; do
    argument="${argument//\\/\\\\}"
    argument="${argument//\"/\\\"}"
    printf '%*s- "%s"\n' "$indent" '' "${argument//\$(/\$\$(}"
  done
}

# render TEMPLATE KEY=VALUE ...: prints launch/templates/TEMPLATE with @KEY@ replaced. A line
# that consists of @KEY@ is removed if the value is empty.
render() {
  local text pair key value
  text="$(cat "$ROOT/launch/templates/$1")"
  shift
  for pair in "$@"; do
    key="@${pair%%=*}@" value="${pair#*=}"
    [ -n "$value" ] || text="${text//$'\n'"$key"$'\n'/$'\n'}"
    text="${text//"$key"/"$value"}"
  done
  printf '%s\n' "$text"
}

# show TITLE TEXT: prints one part of the output of a dry run.
show() {
  printf -- '--- %s\n%s\n' "$1" "$2"
}

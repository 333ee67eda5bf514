# Sourced in the checkout by the launchers that copy it to the hosts, and by their scripts:
# selects the files to copy.
#
# Copied are the files that git tracks, as they are in the working tree, and untracked files
# that --config or --setup names. Without a git repository (an unpacked archive) the project's
# own folders and files are copied. A line reports the number and size of the other files.

# Copied without git, if they exist.
CODE_PARTS=(glide_jax experiments launch tests docs setup.py pyproject.toml README.md LICENSE MANIFEST.in)
# Generated files and files of this machine: never copied, and not counted.
CODE_NEVER=(/.venv /.git /runs /build __pycache__ '.*_cache' '*.egg-info')

# in_git [PATH]: whether git tracks the path, or anything in it.
in_git() {
  [ -n "$(git ls-files -- "${1:-launch/common.sh}" 2>/dev/null | head -n 1)" ]
}

# code_files [FILE ...]: prints the files to copy and FILEs, each terminated by a NUL.
code_files() {
  local file
  if in_git; then
    # git also lists files that are deleted in the working tree.
    git ls-files -z | while IFS= read -r -d '' file; do
      if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
    done
  else
    for file in "${CODE_PARTS[@]}"; do
      if [ -e "$file" ]; then
        find "$file" '(' -name __pycache__ -o -name '*.egg-info' ')' -prune -o ! -type d -print0
      fi
    done
  fi
  [ $# -eq 0 ] || printf '%s\0' "$@"
}

# choose_code: sets extra_code, the untracked files to copy as arguments of code_files in a
# template, with a leading space. Reports the files that are not copied. Reads $config, $setup
# and the array `settings`; makes $config relative if it is in the checkout.
choose_code() {
  local name="${config%%:*}" file word
  local -
  set -f # no expansion of settings such as *.tar
  cd "$ROOT" || exit
  if [ -e .git ] && ! git ls-files >/dev/null 2>&1; then
    die "git cannot list the files of $ROOT: $(git ls-files 2>&1 | head -n 1); fix that, or remove .git to copy the project's folders"
  fi
  # The hosts have the checkout in another folder.
  [[ "$name" != "$ROOT"/* ]] || config="${config#"$ROOT/"}"
  name="${config%%:*}" extra_files=()
  if [[ "$name" == /* ]]; then
    note "--config=$config is not in $ROOT and is not copied; each host needs it at this path"
  elif ! is_copied "$name"; then
    add_file "$name" --config
  fi
  for word in ${setup//[\"\';|&()=]/ }; do
    if [[ "$word" != /* && -f "$word" ]] && ! is_copied "$word"; then add_file "$word" --setup; fi
  done
  for word in ${settings[@]+"${settings[@]}"}; do
    for file in ${word//[\"\'=:,()\[\]]/ }; do
      if [[ "$file" == */* || -d "$file" ]] && [[ "$file" != /* && -e "$file" ]] && ! is_copied "$file"; then
        note "$word: $file of this machine is not copied; each host needs its own"
      fi
    done
  done
  set +f
  extra_code=""
  [ ${#extra_files[@]} -eq 0 ] || extra_code=" $(quoted "${extra_files[@]}")"
  report_left_behind
}

note() {
  echo "$(basename "$0"): $*" >&2
}

# is_copied PATH: whether code_files has the path, or anything in it.
is_copied() {
  if in_git; then in_git "$1"; else [[ " ${CODE_PARTS[*]} " == *" ${1%%/*} "* ]]; fi
}

add_file() {
  [[ " ${extra_files[*]-} " != *" $1 "* ]] || return 0
  extra_files+=("$1")
  note "copied too, though git does not track it: $1 ($2 names it)"
}

# untracked_entries: prints files and folders of which nothing is copied, each terminated by a
# NUL.
untracked_entries() {
  local entry
  if in_git; then
    git ls-files -z --others --directory --no-empty-directory "${CODE_NEVER[@]/#/--exclude=}"
    return
  fi
  for entry in * .[!.]*; do
    case " ${CODE_PARTS[*]} ${CODE_NEVER[*]#/} " in
      *" $entry "*) continue ;;
    esac
    case "$entry" in
      .*_cache | *.egg-info) ;;
      *) [ ! -e "$entry" ] || printf '%s\0' "$entry" ;;
    esac
  done
}

# size KILOBYTES: prints a size with a unit.
size() {
  awk -v kb="$1" 'BEGIN {
    if (kb < 1024) printf "%d KB", kb
    else if (kb < 1024 * 1024) printf "%.0f MB", kb / 1024
    else printf "%.1f GB", kb / 1024 / 1024
  }'
}

report_left_behind() {
  local entry files kb all_files=0 all_kb=0 lines="" largest="" count=0
  while IFS= read -r -d '' entry; do
    files="$(find "$entry" ! -type d | grep -cvxF -- "$(printf '%s\n' "" "${extra_files[@]-}")")" || true
    [ "$files" -gt 0 ] || continue
    kb="$(du -sk "$entry" | cut -f 1)"
    all_files=$((all_files + files)) all_kb=$((all_kb + kb)) count=$((count + 1))
    lines+="$kb $entry"$'\n'
  done < <(untracked_entries)
  in_git || note "git tracks nothing here; copied are: ${CODE_PARTS[*]}"
  if [ "$count" -eq 0 ]; then return; fi
  while read -r kb entry; do
    largest+="${largest:+, }$entry $(size "$kb")"
  done < <(printf '%s' "$lines" | sort -rn | head -n 3)
  note "left behind: $all_files file$([ "$all_files" -eq 1 ] || echo s), $(size "$all_kb")$(in_git && echo " (not tracked by git)"): $largest$([ "$count" -le 3 ] || echo " and $((count - 3)) more"); git add what the hosts need (.venv, runs and caches always stay)"
}

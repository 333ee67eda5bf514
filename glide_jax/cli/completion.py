"""Print a script that completes verbs, flags and values in bash or zsh.

    source <(glide completion bash)
    glide completion bash > ~/.local/share/bash-completion/completions/glide
    glide completion zsh > ~/.zfunc/_glide

The script completes verbs, flags, settings, values of flags with a few choices, and
file names, without starting Python. Print it again after an update of glide_jax. In
zsh, ~/.zfunc must be in fpath before compinit runs.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import config_flag, define, main
from glide_jax.errors import UserError

FILES = "FILES"  # stands for the choices of a flag that takes a path

_BASH = """\
_glide() {
  # Bash splits --flag=value at the =; zsh, and bash without = in wordbreaks, do not.
  local word=${COMP_WORDS[COMP_CWORD]} flag="" verb=${COMP_WORDS[1]} reply found
  local flags="" values="" first=2
  if [[ $word == "=" ]]; then
    flag=${COMP_WORDS[COMP_CWORD - 1]} word=""
  elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == "=" ]]; then
    flag=${COMP_WORDS[COMP_CWORD - 2]}
  elif [[ $COMP_CWORD -gt 1 && ${COMP_WORDS[COMP_CWORD - 1]} == --* ]]; then
    flag=${COMP_WORDS[COMP_CWORD - 1]}
  fi
  COMPREPLY=()
  if [[ $verb == help && $COMP_CWORD -gt 1 ]]; then
    verb=${COMP_WORDS[2]} first=3
  fi
  if [[ $COMP_CWORD -ge $first ]]; then
    _glide_parts "$verb"
    if [[ $COMP_CWORD -eq $first && -n $parts && $word != -* ]]; then
      found=$(compgen -W "$parts" -- "$word")
      [[ -n $found ]] && COMPREPLY=($found) && return
    fi
    if [[ $COMP_CWORD -gt $first && " $parts " == *" ${COMP_WORDS[first]} "* ]]; then
      verb="$verb ${COMP_WORDS[first]}"
    fi
  fi
  if [[ $COMP_CWORD -lt $first ]]; then
    COMPREPLY=($(compgen -W "$_glide_verbs help" -- "$word"))
    return
  fi
  _glide_values "$verb" "${flag#--}"
  if [[ $values == FILES ]] || [[ -z $flag && $word != -* ]]; then
    compopt -o filenames 2>/dev/null
    local IFS=$'\\n'
    COMPREPLY=($(compgen -f -- "$word"))
  elif [[ -n $values ]]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
  elif [[ $word == -* ]]; then
    _glide_flags "$verb"
    case $word in
      --*.*) [[ " $flags " == *" ${word%%.*}= "* ]] && flags=$(
        printf -- "${word%%.*}.%s= " $_glide_settings) ;;
    esac
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] &&
      compopt -o nospace 2>/dev/null
  fi
}
complete -F _glide glide
"""

_ZSH = """\
_glide() {
  local word=$words[CURRENT] verb=$words[2] parts="" flags="" values="" first=3
  if [[ $verb == help ]] && (( CURRENT > 2 )); then
    verb=$words[3] first=4
  fi
  if (( CURRENT < first )); then
    compadd -- ${=_glide_verbs} help
    return
  fi
  _glide_parts "$verb"
  if (( CURRENT == first )) && [[ -n $parts && $word != -* ]]; then
    compadd -- ${=parts} && return
  fi
  if (( CURRENT > first )) && [[ " $parts " == *" $words[first] "* ]]; then
    verb="$verb $words[first]"
  fi
  if compset -P '--*='; then
    _glide_values "$verb" "${${IPREFIX%=}#--}"
  elif [[ $words[CURRENT-1] == --* && $words[CURRENT-1] != *=* ]]; then
    _glide_values "$verb" "${words[CURRENT-1]#--}"
  elif [[ $word == -* ]]; then
    _glide_flags "$verb"
    if [[ $word == --*.* && " $flags " == *" ${word%%.*}= "* ]]; then
      compadd -S '' -- ${word%%.*}.${^${=_glide_settings}}=
    else
      compadd -S '' -- ${(M)${=flags}:#*=}
      compadd -- ${${=flags}:#*=}
    fi
    return
  else
    values=FILES
  fi
  if [[ $values == FILES ]]; then
    _files
  elif [[ -n $values ]]; then
    compadd -- ${=values}
  fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _glide "$@"
else
  compdef _glide glide
fi
"""


def define_flags(values: flags.FlagValues) -> None:
    """Defines no flags; the shell is a positional argument."""
    del values


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints the script."""
    del values
    if arguments not in (["bash"], ["zsh"]):
        given = repr(" ".join(arguments)) if arguments else "nothing"
        raise UserError(
            f"{given} is not a supported shell; use glide completion bash, or "
            "glide completion zsh"
        )
    if arguments == ["zsh"]:
        print(f"#compdef glide\n{_tables()}{_ZSH}", end="")
    else:
        print(f"{_tables()}{_BASH}", end="")
    return 0


def _tables() -> str:
    """Returns verbs, flags and values as functions in the syntax of both shells."""
    from glide_jax.config import reference

    firsts = dict.fromkeys(verb.partition(" ")[0] for verb in main.VERBS)
    settings = dict.fromkeys(
        setting.name for section in reference.sections() for setting in section.settings
    )
    parts, names, choices = [], [], []
    for first in firsts:
        seconds = [v.partition(" ")[2] for v in main.VERBS if v.startswith(f"{first} ")]
        if seconds:
            parts.append(f'    {first}) parts="{" ".join(seconds)}" ;;')
    for verb in main.VERBS:
        words = ["--help"]
        values = flags.FlagValues()
        main.module_of(verb).define_flags(values)
        for name in sorted(values):
            flag = values[name]
            words += [f"--{name}", f"--no{name}"] if flag.boolean else [f"--{name}="]
            if allowed := _values(flag):
                choices.append(f'    "{verb}:{name}") values="{allowed}" ;;')
        names.append(f'    "{verb}") flags="{" ".join(words)}" ;;')
    parts.append('    completion) parts="bash zsh" ;;')
    return "\n".join(
        [
            f'_glide_verbs="{" ".join(firsts)}"',
            f'_glide_settings="{" ".join(settings)}"',
            *_function("_glide_parts", '"$1"', "parts", parts),
            *_function("_glide_flags", '"$1"', "flags", names),
            *_function("_glide_values", '"$1:$2"', "values", choices),
            "",
        ]
    )


def _function(name: str, word: str, result: str, cases: list[str]) -> list[str]:
    """Returns a shell function that sets the variable `result` depending on a word."""
    start = [f"{name}() {{", f'  {result}=""', f"  case {word} in"]
    return [*start, *cases, "  esac", "}"]


def _values(flag: flags.Flag) -> str:
    """Returns the values of a flag: its choices, FILES, or "" if they are open."""
    if config_flag.is_one(flag) or define.takes_path(flag):
        return FILES
    return " ".join(getattr(flag.parser, "enum_values", ()))

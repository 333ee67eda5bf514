"""`glide VERB [FLAGS]`: imports only the chosen verb and exits with its code.

A verb of two words, such as `evaluate elo`, is the module cli/evaluate_elo.py.

Exit codes for launchers, which run the same command again after 42 and after all codes
from 128 up, and after no other:

      0  success
      1  an unexpected error, with a traceback: a bug, or a failing machine
      2  a user error: one line on stderr
      3  checkpoints exist, but none is valid
      4  training diverged and could not recover
     42  stopped by SIGTERM or Ctrl-C with everything saved: the training state, the
         batches of samples that were drawn, or nothing if there was nothing to save
    130  interrupted by Ctrl-C without a clean shutdown: by a second one, or in a verb
         that has nothing to save; training resumes from the last checkpoint, as after:
    134  another process of the run is gone
    135  no step within train.stall_secs
    136  a device failed in the middle of a run
    141  the reader of stdout is gone, as in `glide plan ... | head`
    143  SIGTERM before the handler was installed, or saving exceeded train.grace_secs
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import logging
import os
import select
import signal
import sys
import textwrap
import types
from collections.abc import Iterator

from absl import flags

import glide_jax
from glide_jax.cli import config_flag
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle, mirrors, user_cache

VERB_GROUPS = {
    "start here": {
        "quickstart": "train, sample and evaluate every model at toy size",
    },
    "data": {
        "data check": "read every record of a source and list the unusable ones",
        "data build": "write a data set of records from any source",
        "data prepare": "filter, deduplicate and shuffle pairs into shards",
        "data tokenizer": "train a tokenizer on the captions of a source",
        "data icons": "make a captioned data set of emoji in four styles and clip art",
        "data cache": "limit the size of a cache of decoded pictures",
    },
    "train": {
        "plan": "memory, time and cost of a training run on other machines",
        "train": "train one model from a configuration, or continue it",
        "sweep": "train or evaluate with many settings, here or on a cluster",
        "export": "make a bundle for sampling from a trained workdir",
        "distil": "train students that sample in a few steps",
    },
    "sample": {
        "sample": "draw pictures from prompts",
        "inpaint": "repaint a part of a picture, or extend it beyond its sides",
        "edit": "change a picture, or finish a sketch",
        "upsample": "enlarge pictures of any size by the upsampler's factor",
        "demo": "open a page that draws, repaints, edits, compares and votes",
        "serve": "answer requests for pictures over HTTP, as OpenAI's clients ask",
    },
    "evaluate": {
        "evaluate": "FID, precision, CLIP score and losses of models or pictures",
        "evaluate reference": "statistics of real pictures, to compare samples with",
        "evaluate pairs": "blinded pairs of pictures, and a page to vote on them",
        "evaluate elo": "ratings of models from such votes",
        "evaluate neighbours": "the training pictures nearest to samples",
    },
    "tools": {
        "convert": "released PyTorch weights to a bundle, and back",
        "verify": "check the files of a workdir or a bundle for damage",
        "benchmark sample": "time the sampler on this machine",
        "benchmark train": "time a training step on this machine",
        "benchmark serve": "time a server, many clients against one at a time",
        "settings": "every setting of a run, with default and meaning",
        "completion": "print a script that completes verbs and flags in a shell",
        "flags": "print the compiler flags of a chip for a shell",
    },
}
VERBS = {name: text for group in VERB_GROUPS.values() for name, text in group.items()}

# The code that a shell reports for a program ended by SIGPIPE, as in `git log | head`.
READER_GONE = 128 + signal.SIGPIPE

# Verbs that handle Ctrl-C from the start: their imports take seconds.
HANDLES_CTRL_C = ("train",)


def main(argv: list[str] | None = None) -> None:
    """The console script."""
    try:
        code = _run_with_cache(sys.argv[1:] if argv is None else argv)
        if sys.stdout is not None:  # it is None after >&-
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_reader_gone():
            raise  # another pipe or a socket
        # Python flushes stdout once more when it ends.
        assert sys.stdout is not None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = READER_GONE
    sys.exit(code)


def _run_with_cache(argv: list[str]) -> int:
    try:
        user_cache.keep_programs()
    except UserError as error:
        print(f"glide: {error}", file=sys.stderr)
        return error.exit_code
    return run(argv)


def _is_reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run(argv: list[str]) -> int:
    """Runs `glide` with these arguments; returns the exit code."""
    if not argv or argv in (["help"], ["-h"], ["--help"]):
        print(_usage())
        return lifecycle.ExitCode.OK if argv else lifecycle.ExitCode.USER_ERROR
    if argv[0] == "--version":
        print(f"glide {glide_jax.__version__}")
        return lifecycle.ExitCode.OK
    if argv[:2] == ["help", "settings"]:
        argv = argv[1:]
    if argv[0] == "help":
        argv = [*argv[1:3], "--help"]
    verb, *rest = argv
    if rest and f"{verb} {rest[0]}" in VERBS:
        verb = f"{verb} {rest.pop(0)}"
    if verb not in VERBS:
        return _refuse_verb(verb, rest)
    logging.basicConfig(
        level=os.environ.get("GLIDE_JAX_LOG", "INFO"),
        format="%(message)s",
        stream=sys.stderr,
    )
    # Orbax and absl log every file that they read or write.
    for noisy in ("absl", "orbax", "jax", "etils", "tensorstore", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # They log a page for a failed write; checkpoint/ logs one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(user_cache.failures_logged_once())
            stack.enter_context(mirrors.session(_is_first))
            if verb in HANDLES_CTRL_C:
                stack.enter_context(lifecycle.StopRequest(signals=(signal.SIGINT,)))
            return _run_verb(verb, rest)
    except UserError as error:
        print(f"glide {verb}: {error}", file=sys.stderr)
        return error.exit_code
    except lifecycle.StoppedError as stopped:
        print(f"glide {verb}: {stopped}", file=sys.stderr)
        return lifecycle.ExitCode.PREEMPTED
    except KeyboardInterrupt:
        print(f"glide {verb}: interrupted", file=sys.stderr)
        return lifecycle.ExitCode.INTERRUPTED


def _is_first() -> bool:
    """Whether this is process 0 of a run; False as long as that is unknown."""
    from glide_jax.parallel import cluster_env, distributed

    if distributed.is_joined():
        return distributed.process_id() == 0
    cluster = cluster_env.find(os.environ)
    return cluster is None or (
        cluster.coordinator is not None and not cluster.process_id
    )


def _refuse_verb(verb: str, rest: list[str]) -> int:
    """Prints the known verbs, or the help of those that begin with this word."""
    parts = [name.partition(" ")[2] for name in VERBS if name.startswith(f"{verb} ")]
    if parts and rest in (["--help"], ["-h"]):
        print(_usage(f"{verb} "))
        return lifecycle.ExitCode.OK
    if parts:
        given = f"{verb} {rest[0]}" if rest else verb
        verbs = [f"{verb} {part}" for part in parts]
    else:
        given, verbs = verb, list(VERBS)
    similar = difflib.get_close_matches(given, verbs, n=1)
    meant = f"did you mean {similar[0]!r}? The" if similar else "the"
    print(
        f"glide: {given!r} is not a verb; {meant} verbs are {', '.join(verbs)}",
        file=sys.stderr,
    )
    return lifecycle.ExitCode.USER_ERROR


def _run_verb(verb: str, rest: list[str]) -> int:
    module = module_of(verb)
    values = flags.FlagValues()
    module.define_flags(values)
    flags.DEFINE_bool(
        "help", False, "show this help", short_name="h", flag_values=values
    )
    arguments = parse(values, [f"glide {verb}", *rest])
    if values.help:
        print(f"{module.__doc__}\n{_flag_help(values)}")
        return lifecycle.ExitCode.OK
    return module.run(values, arguments) or lifecycle.ExitCode.OK


def module_of(verb: str) -> types.ModuleType:
    """The module of a verb, with `define_flags` and `run`."""
    return importlib.import_module(f"glide_jax.cli.{verb.replace(' ', '_')}")


def parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Positional arguments; every flag mistake becomes one UserError."""
    before, argv = sys.argv, config_flag.quote_sources(argv)
    # ml_collections reads --config.KEY=VALUE from sys.argv.
    sys.argv = argv
    try:
        refuse_repeats(values, argv)
        return values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        cause = error.__context__
        if isinstance(cause, UserError):  # of a flag's own parser
            raise cause from None
        line = _one_line(error)
        # ml_collections raises these for an unknown key.
        if isinstance(error, AttributeError | KeyError):
            line = config_flag.describe_unknown(line, argv)
        is_setting = isinstance(error, AttributeError | KeyError) or "config." in line
        place = "glide help settings" if is_setting else f"{argv[0]} --help"
        raise UserError(f"{line} (see `{place}`)") from error
    except OSError as error:
        raise UserError(str(error).splitlines()[-1].strip()) from error
    finally:
        sys.argv = before


def _one_line(error: Exception) -> str:
    """The message of a library as one line."""
    text = str(error.args[0] if error.args else error)
    # str() of a KeyError is the repr of its message, which may be a repr itself.
    while text[:1] in ("'", '"') and text[:1] == text[-1:]:
        try:
            text = str(ast.literal_eval(text))
        except (SyntaxError, ValueError):
            break
    return " ".join(text.split())


def _flag_help(values: flags.FlagValues) -> str:
    """Name, meaning and default of every flag of the verb."""
    lines = ["flags:"]
    for name in sorted(values):
        flag = values[name]
        # --config.KEY=VALUE becomes a flag of its own; --config documents them all.
        if "." in name or name != flag.name:
            continue
        short = f", -{flag.short_name}" if flag.short_name else ""
        lines.append(f"  --{'[no]' if flag.boolean else ''}{name}{short}")
        meaning = flag.help
        if flag.default is not None and flag.default != "":
            meaning += f" (default: {flag.default})"
        indent = " " * 6
        lines += textwrap.wrap(
            meaning, 88, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(lines)


def _usage(start: str = "") -> str:
    """The verbs that start with `start`, by group, each with its meaning."""
    lines = []
    for group, verbs in VERB_GROUPS.items():
        shown = {verb: verbs[verb] for verb in verbs if verb.startswith(start)}
        if shown:
            lines += ["", f"{group}:"]
        lines += [f"  {verb:<20} {meaning}" for verb, meaning in shown.items()]
    return (
        "glide VERB [--flag=value ...]; `glide help VERB` shows its flags, "
        "`glide --version` the version\n" + "\n".join(lines)
    )


def refuse_repeats(values: flags.FlagValues, argv: list[str]) -> None:
    """Refuses flags and settings that are given twice: absl would use the last value.

    Flags that are defined as repeatable, such as --prompt, are allowed.

    Args:
      values: the defined flags, before parsing.
      argv: the name of the program and its arguments.

    Raises:
      UserError: a flag or a setting is given twice; the message has both values.
    """
    seen: dict[str, str] = {}
    for name, value in _read(values, argv):
        if name in seen:
            raise UserError(
                f"--{name} is given twice, as {seen[name]!r} and {value!r}; "
                "leave one of them out"
            )
        seen[name] = value


def _read(values: flags.FlagValues, argv: list[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each flag that may occur once, as absl splits the words."""
    words = iter(argv[1:])
    for word in words:
        if word == "--":
            return
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        section = name.partition(".")[0]
        if section not in values and section.removeprefix("no") in values:
            name, equals, value = name.removeprefix("no"), "=", "False"
        section, dot, _ = name.partition(".")
        if section not in values:
            continue  # absl names it
        flag = values[section]
        if not equals:
            # Settings are not flags yet: a boolean one is read as having a value if
            # another word follows.
            value = "True" if flag.boolean and not dot else next(words, "True")
        if dot:
            yield name, value
        elif not isinstance(flag, flags.MultiFlag):
            yield flag.name, value


if __name__ == "__main__":
    main()

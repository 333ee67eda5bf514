"""Which runs make up a sweep, and what are they called?

A run's id is a digest of what it starts with: the command, the flags of all runs, and
its own overrides, whatever their order. plan.json in the sweep's folder keeps them; the
same folder takes more runs of the sweep later, and no other sweep.
"""

from __future__ import annotations

import collections
import hashlib
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from glide_jax.errors import UserError
from glide_jax.runtime import files, json_fields
from glide_jax.sweep.combine import Overrides
from glide_jax.sweep.sweep_file import Definition

SCHEMA = 1
ID_DIGITS = 10  # hexadecimal: two of a thousand runs meet once in 2 million sweeps
# Verbs name the folder that they write to by --output, but for these.
OUTPUT_FLAGS = {"train": "--workdir"}
# Settings whose tuples are written without quotes, see `cli.config_flag`.
_PLAIN = ("data.sources", "data.validation_sources")
_PLAN_KINDS = {"name": (str,), "command": (list,), "shared": (list,), "runs": (list,)}
_RUN_KINDS = {"id": (str,), "label": (str,), "overrides": (dict,)}


class SweepRun(NamedTuple):
    """One run: its id, its overrides, and these as a person reads them."""

    id: str
    label: str
    overrides: Overrides


class Plan(NamedTuple):
    """A sweep: name of its file, words after `glide`, flags of all runs, the runs."""

    name: str
    command: tuple[str, ...]
    shared: tuple[str, ...]
    runs: tuple[SweepRun, ...]

    @property
    def verb(self) -> str:
        """The first word of what each run starts."""
        return self.command[0]

    def run(self, name: str) -> SweepRun:
        """The run with this id.

        Raises:
          UserError: there is none.
        """
        for run in self.runs:
            if run.id == name:
                return run
        raise UserError(
            f"--only={name} is no run of {self.name}; its first is {self.runs[0].id}, "
            "and --status shows them all"
        )


def make(definition: Definition, shared: Sequence[str] = ()) -> Plan:
    """The plan of a sweep file's runs; `shared` are flags that all of them get.

    Raises:
      UserError: two runs are the same, by their ids or by what they start.
    """
    start = [*definition.command, *shared]
    varied = _varied(definition.overrides)
    runs = tuple(
        SweepRun(run_id(start, overrides), label(overrides, varied), overrides)
        for overrides in definition.overrides
    )
    plan = Plan(definition.name, definition.command, tuple(shared), runs)
    seen: dict[str, int] = {}
    for number, run in enumerate(runs):
        # 3 and "3" have two ids and one command line, 3 and 3.0 the other way round.
        command = shlex.join(sorted(arguments(plan, run, None)))
        for mark, kind in ((run.id, "id"), (command, "command line")):
            first = seen.setdefault(mark, number)
            if first != number:
                raise UserError(
                    f"runs {first} and {number} of {plan.name} are the same, "
                    f"{_json(run.overrides)}, and would have one {kind}; leave one "
                    "out, or vary the seed"
                )
    return plan


def run_id(start: Sequence[str], overrides: Overrides) -> str:
    """The first digits of the SHA-256 of words and overrides as canonical JSON."""
    text = _json({"command": list(start), "overrides": overrides})
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def label(overrides: Overrides, keys: Sequence[str]) -> str:
    """ "learning_rate=0.0003,global_batch_size=16": the values of these keys."""
    lasts = collections.Counter(key.rpartition(".")[2] for key in keys)
    parts = []
    for key in keys:
        last = key.rpartition(".")[2]
        if key in overrides:
            name = last if lasts[last] == 1 else key
            parts.append(f"{name}={shown(overrides[key])}")
    return ",".join(parts)


def shown(value: Any) -> str:
    """A swept value in labels and tables."""
    if isinstance(value, tuple | list):
        return "+".join(shown(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def arguments(plan: Plan, run: SweepRun, root: pathlib.Path | None) -> list[str]:
    """What comes after `glide` to start a run; without a root, but for its folder.

    A flag is replaced by the same flag of a later group: the command, the flags of all
    runs, the run's overrides. `glide` refuses a flag that is given twice.
    """
    prefix = "--config." if plan.verb == "train" else "--"
    own = [f"{prefix}{key}={_word(plan, key, v)}" for key, v in run.overrides.items()]
    words: list[str] = []
    for group in (plan.command, plan.shared, own):
        words = [*_without(words, set(map(_flag_name, group))), *group]
    if root is not None:
        flag = OUTPUT_FLAGS.get(plan.verb, "--output")
        words.append(f"{flag}={root / 'runs' / run.id}")
    return words


def _without(words: Sequence[str], names: set[str]) -> list[str]:
    """The words without the flags of these names and their values."""
    kept, is_left_out = [], False
    for word in words:
        name = _flag_name(word)
        if name or not is_left_out:
            is_left_out = name in names and bool(name)
            if not is_left_out:
                kept.append(word)
            is_left_out = is_left_out and "=" not in word
        else:
            is_left_out = False  # the value of the flag before it
    return kept


def _flag_name(word: str) -> str:
    """ "config.seed" of --config.seed=1, "" of a word that is no flag."""
    return word.lstrip("-").partition("=")[0] if word.startswith("-") else ""


def _word(plan: Plan, key: str, value: Any) -> str:
    if not isinstance(value, tuple | list):
        return str(value)
    # Settings are read as Python, flags between commas.
    if plan.verb == "train" and key not in _PLAIN:
        return repr(tuple(value))
    return ",".join(map(str, value))


def keep(plan: Plan, root: pathlib.Path) -> None:
    """Writes plan.json, or finds the same sweep there, maybe with fewer runs.

    Raises:
      UserError: the folder holds another sweep, or cannot be written.
    """
    path = root / "plan.json"
    text = to_json(plan)
    if path.is_file() and path.read_bytes() == text.encode():
        return
    if path.is_file():
        _check_continues(read(root), plan, root)
    try:
        for folder in ("runs", "logs", "state"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        # Several processes may start at the same time.
        files.write_text(path, text, is_shared=True)
    except OSError as error:
        raise UserError(
            f"--root={root} cannot be written ({error.strerror}); name a folder that "
            "you may write"
        ) from error


def to_json(plan: Plan) -> str:
    """The plan as plan.json has it."""
    fields = {**plan._asdict(), "runs": [run._asdict() for run in plan.runs]}
    return json.dumps({"schema": SCHEMA, **fields}, indent=1) + "\n"


def read(root: pathlib.Path) -> Plan:
    """The plan of a sweep's folder.

    Raises:
      UserError: there is none, or one that cannot be read.
    """
    path = root / "plan.json"
    if not path.is_file():
        raise UserError(
            f"--root={root} has no plan.json, so it holds no sweep; start one there by "
            f"glide sweep experiments/sweeps/lr_batch.py --root={root}"
        )
    try:
        fields = json.loads(path.read_bytes())
        if fields["schema"] != SCHEMA:
            raise UserError(
                f"{path} is a plan of schema {fields['schema']}, and this reads "
                f"{SCHEMA}; use the glide_jax that wrote it, or another --root"
            )
        json_fields.check(fields, _PLAN_KINDS)
        runs = (
            SweepRun(**json_fields.check(run, _RUN_KINDS)) for run in fields["runs"]
        )
        command, shared = tuple(fields["command"]), tuple(fields["shared"])
        if not command or not all(isinstance(w, str) for w in command + shared):
            raise TypeError("its command is no list of words")
        return Plan(fields["name"], command, shared, tuple(runs))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no plan of a sweep ({error}); remove it, or use another --root"
        ) from error


def _check_continues(old: Plan, new: Plan, root: pathlib.Path) -> None:
    differing = [
        f"{name} was {had!r} and is {has!r}"
        for name, had, has in (
            ("the sweep", old.name, new.name),
            ("its command", " ".join(old.command), " ".join(new.command)),
            ("what follows --", " ".join(old.shared), " ".join(new.shared)),
        )
        if had != has
    ]
    if not differing:
        ids = {run.id for run in new.runs}
        gone = [run for run in old.runs if run.id not in ids]
        differing = [f"{len(gone)} of its runs are gone, {r.label}" for r in gone[:1]]
    if differing:
        raise UserError(
            f"--root={root} holds another sweep: {'; '.join(differing)}; use another "
            "--root, or the sweep as it was (runs may be added)"
        )


def _varied(runs: Sequence[Overrides]) -> list[str]:
    """Keys whose values differ between runs; of a single run, all of its keys."""
    keys = dict.fromkeys(key for overrides in runs for key in overrides)
    values = {key: {_json(run.get(key)) for run in runs} for key in keys}
    return [key for key in keys if len(values[key]) > 1 or len(runs) == 1]


def _json(value: Any) -> str:
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))


def _canonical(value: Any) -> Any:
    """3.0 is 3, and a tuple a list: they come to the same setting."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value

"""Plans the runs of a sweep and stores them in plan.json.

The id of a run is a digest of its command, the flags of all runs, and its own
overrides, in any order. A sweep's folder accepts more runs of the same sweep later, and
no other sweep.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
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
ID_DIGITS = 10  # hexadecimal: a thousand runs collide once in 2 million sweeps
# The flag of a verb's folder, where it is not --output.
OUTPUT_FLAGS = {"train": "--workdir"}
# Settings whose tuples are written without quotes, see `cli.config_flag`.
_PLAIN = ("data.sources", "data.validation_sources")
_PLAN_KINDS = {"name": (str,), "command": (list,), "shared": (list,), "runs": (list,)}
_RUN_KINDS = {"id": (str,), "label": (str,), "overrides": (dict,)}


class SweepRun(NamedTuple):
    """One run: its id, a readable label, and its overrides."""

    id: str
    label: str
    overrides: Overrides


class Plan(NamedTuple):
    """A sweep.

    Attributes:
      name: Name of its file.
      command: Words after `glide`.
      shared: Flags of all runs.
      runs: The runs.
    """

    name: str
    command: tuple[str, ...]
    shared: tuple[str, ...]
    runs: tuple[SweepRun, ...]

    @property
    def verb(self) -> str:
        """The first word of the command."""
        return self.command[0]

    def run(self, name: str) -> SweepRun:
        """Returns the run with this id.

        Raises:
          UserError: There is no such run.
        """
        for run in self.runs:
            if run.id == name:
                return run
        raise UserError(
            f"--only={name} is not a run of {self.name}; its first is "
            f"{self.runs[0].id}, and --status shows all"
        )


def make(definition: Definition, shared: Sequence[str] = ()) -> Plan:
    """Returns the plan of a sweep file; `shared` are flags of all runs.

    Raises:
      UserError: Two runs have the same id or the same command line.
    """
    start = [*definition.command, *shared]
    varied = varied_keys(definition.overrides)
    runs = tuple(
        SweepRun(run_id(start, overrides), label(overrides, varied), overrides)
        for overrides in definition.overrides
    )
    plan = Plan(definition.name, definition.command, tuple(shared), runs)
    seen: dict[str, int] = {}
    for number, run in enumerate(runs):
        # 3 and "3" have two ids and one command line, 3 and 3.0 one id and two.
        command = shlex.join(sorted(arguments(plan, run, None)))
        for mark, kind in ((run.id, "id"), (command, "command line")):
            first = seen.setdefault(mark, number)
            if first != number:
                raise UserError(
                    f"runs {first} and {number} of {plan.name} are the same, "
                    f"{_json(run.overrides)}, with one {kind}; leave one out, or vary "
                    "the seed"
                )
    return plan


def run_id(start: Sequence[str], overrides: Overrides) -> str:
    """Returns the first digits of the SHA-256 of canonical JSON."""
    text = _json({"command": list(start), "overrides": overrides})
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def label(overrides: Overrides, keys: Sequence[str]) -> str:
    """Returns the values of `keys`, e.g. "learning_rate=0.0003,seed=16"."""
    lasts = collections.Counter(key.rpartition(".")[2] for key in keys)
    parts = []
    for key in keys:
        last = key.rpartition(".")[2]
        if key in overrides:
            name = last if lasts[last] == 1 else key
            parts.append(f"{name}={shown(overrides[key])}")
    return ",".join(parts)


def shown(value: Any) -> str:
    """Returns a swept value as text for labels and tables."""
    if isinstance(value, tuple | list):
        return "+".join(shown(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def arguments(plan: Plan, run: SweepRun, root: pathlib.Path | None) -> list[str]:
    """Returns the words after `glide` that start a run; without a root, no folder.

    A flag is replaced by the same flag of a later group: the command, the flags of all
    runs, the run's overrides. `glide` refuses a flag that is given twice.
    """
    own = [assignment(name, value) for name, value in _own_flags(plan, run).items()]
    words: list[str] = []
    for group in (plan.command, plan.shared, own):
        words = [*_without(words, set(map(_flag_name, group))), *group]
    if root is not None:
        flag = OUTPUT_FLAGS.get(plan.verb, "--output")
        words.append(f"{flag}={root / 'runs' / run.id}")
    return words


def _without(words: Sequence[str], names: set[str]) -> list[str]:
    """Returns the words without the flags of these names and their values."""
    kept, skips_value = [], False
    for word in words:
        name = _flag_name(word)
        if skips_value and not name:
            skips_value = False
            continue
        skips_value = bool(name) and name in names and "=" not in word
        if not name or name not in names:
            kept.append(word)
    return kept


def _flag_name(word: str) -> str:
    """Returns "config.seed" for --config.seed=1, "" for a word that is not a flag."""
    return word.lstrip("-").partition("=")[0] if word.startswith("-") else ""


def assignment(name: str, value: Any) -> str:
    """Returns "--name=value"; "--name" of a switch, whose value is None.

    A tuple of settings is a Python expression, one of a flag has commas.
    """
    if value is None:
        return f"--{name}"
    if not isinstance(value, tuple | list):
        return f"--{name}={value}"
    setting = name.removeprefix("config.")
    if setting != name and setting not in _PLAIN:
        return f"--{name}={tuple(value)!r}"
    return f"--{name}={','.join(map(str, value))}"


def full_verb(plan: Plan) -> str:
    """Returns the verb of the runs, e.g. "evaluate reference"."""
    words = itertools.takewhile(lambda w: not w.startswith("-"), plan.command)
    return " ".join(words)


def flags(plan: Plan, run: SweepRun) -> dict[str, Any]:
    """Returns the flags of a run by name, without that of its folder.

    Values of the run's overrides are those of the sweep file, others are texts, and a
    switch without a value has None.
    """
    found: dict[str, Any] = {}
    name = ""
    for text in arguments(plan, run, None):
        if _flag_name(text):
            name = _flag_name(text)
            found[name] = text.partition("=")[2] if "=" in text else None
        elif name and found[name] is None:
            found[name] = text
    return found | _own_flags(plan, run)


def _own_flags(plan: Plan, run: SweepRun) -> dict[str, Any]:
    prefix = "config." if plan.verb == "train" else ""
    return {f"{prefix}{key}": value for key, value in run.overrides.items()}


def keep(plan: Plan, root: pathlib.Path) -> None:
    """Writes plan.json, or extends that of the same sweep.

    Raises:
      UserError: The folder holds another sweep, or cannot be written.
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
            f"--root={root} cannot be written ({error.strerror}); name a writable "
            "folder"
        ) from error


def to_json(plan: Plan) -> str:
    """Returns the text of plan.json."""
    fields = {**plan._asdict(), "runs": [run._asdict() for run in plan.runs]}
    return json.dumps({"schema": SCHEMA, **fields}, indent=1) + "\n"


def read(root: pathlib.Path) -> Plan:
    """Reads the plan of a sweep's folder.

    Raises:
      UserError: There is no plan, or it cannot be read.
    """
    path = root / "plan.json"
    if not path.is_file():
        raise UserError(
            f"--root={root} has no plan.json, so it has no sweep; start one there by "
            f"glide sweep experiments/sweeps/lr_batch.py --root={root}"
        )
    try:
        fields = json.loads(path.read_bytes())
        if fields["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {fields['schema']}, and this version reads "
                f"{SCHEMA}; use the glide_jax that wrote it, or another --root"
            )
        json_fields.check(fields, _PLAN_KINDS)
        runs = (
            SweepRun(**json_fields.check(run, _RUN_KINDS)) for run in fields["runs"]
        )
        command, shared = tuple(fields["command"]), tuple(fields["shared"])
        if not command or not all(isinstance(w, str) for w in command + shared):
            raise TypeError("its command is not a list of words")
        return Plan(fields["name"], command, shared, tuple(runs))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a sweep's plan ({error}); remove it, or use another --root"
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
        differing = [
            f"{len(gone)} of its runs are missing, {r.label}" for r in gone[:1]
        ]
    if differing:
        raise UserError(
            f"--root={root} holds another sweep: {'; '.join(differing)}; use another "
            "--root, or the sweep as it was (runs may be added)"
        )


def varied_keys(runs: Sequence[Overrides]) -> list[str]:
    """Returns the keys whose values differ between runs; all keys of a single run."""
    keys = dict.fromkeys(key for overrides in runs for key in overrides)
    values = {key: {_json(run.get(key)) for run in runs} for key in keys}
    return [key for key in keys if len(values[key]) > 1 or len(runs) == 1]


def _json(value: Any) -> str:
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))


def _canonical(value: Any) -> Any:
    """Turns 3.0 into 3 and tuples into lists, which are the same setting."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value

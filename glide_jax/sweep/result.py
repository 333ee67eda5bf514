"""Reads and writes result.json, and one JSON row for each finished run.

`glide evaluate` writes its own result.json. That of a training run is written here, by
TRAINING_RULE. A row adds the sweep, the run and its flags as records; absolute paths
among them are shortened, so that rows can be published.
"""

from __future__ import annotations

import json
import math
import pathlib
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from glide_jax.errors import UserError
from glide_jax.runtime import files, json_fields, metric_writers
from glide_jax.sweep import run_list
from glide_jax.sweep.state import RunRecord

SCHEMA = 1  # of result.json
ROW_SCHEMA = 2
_REMEDY = "remove it, and run the same sweep again"
_RESULT_KINDS = {"metrics": (dict,), "machine": (dict,)}
_ROW_KINDS = _RESULT_KINDS | {
    "sweep": (str,),
    "id": (str,),
    "label": (str,),
    "overrides": (dict,),
    "verb": (str,),
    "flags": (dict,),
    "settings": (dict,),
    "warnings": (list,),
    "seconds": (int, float),
    "attempts": (int,),
}
# The metrics of a training run that a report shows.
AVERAGED_METRICS = ("loss", "mse", "vb")
NEWEST_METRICS = ("skipped_updates",)
TRAINING_GROUPS = ("validation/", "evaluation/")
LAST_FRAC = 0.1
TRAINING_RULE = (
    "The loss, mse and vb are means of the log rows in the last tenth of the steps,"
    " or the last row; a row is a mean over the steps since the row before it."
    " Validation and evaluation metrics are the newest ones. The loss of a few steps"
    " depends on whether they drew the noisiest timestep, whose vb is large; the mse"
    " compares runs better."
)

Row = Mapping[str, Any]


def of_training(workdir: pathlib.Path, words: Sequence[str]) -> dict[str, Any]:
    """Returns the result of the finished training run that `glide WORDS` started."""
    from glide_jax.bench import machine  # imports JAX, which this module does not need

    return {
        "schema": SCHEMA,
        "verb": "train",
        "settings": json.loads((workdir / "config.json").read_text()),
        "metrics": _training_metrics(
            metric_writers.read_metrics(workdir / "metrics.jsonl")
        ),
        "machine": machine.describe(),
        "command": shlex.join(["glide", *words]),
    }


def _training_metrics(rows: Sequence[Mapping[str, float | int]]) -> dict[str, float]:
    """Returns the metrics of TRAINING_RULE."""
    newest: dict[str, float | int] = {}
    for row in rows:
        newest |= row
    # 1e-6 of a step: 0.9 * 150 is not exact.
    start = (1 - LAST_FRAC) * newest.get("step", 0) + 1e-6
    kept = {}
    for name, value in newest.items():
        if name in AVERAGED_METRICS:
            last = [r[name] for r in rows if name in r and r["step"] > start]
            kept[name] = statistics.fmean(last) if last else value
        elif name in NEWEST_METRICS or name.startswith(TRAINING_GROUPS):
            kept[name] = value
    return kept


def write(path: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes a result.json; see `files.write_json`."""
    files.write_json(path, _without_nan(result))


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a result.json.

    Raises:
      UserError: The file is not a result, or of another schema.
    """
    return _parse(path.read_bytes(), str(path), SCHEMA, _RESULT_KINDS)


def make_rows(plan: run_list.Plan, root: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of the finished runs, in the plan's order.

    The settings of an evaluation identify its weights and its reference by their
    digests. The flags of a training run state all of its settings.
    """
    overrides = _portable_overrides(plan)
    keys = run_list.varied_keys(overrides)
    rows = []
    for run, own in zip(plan.runs, overrides, strict=True):
        record = RunRecord(root, run.id)
        if not record.is_finished:
            continue
        result = read(record.result)
        is_training = plan.verb == "train"
        rows.append(
            {
                "schema": ROW_SCHEMA,
                "sweep": plan.name,
                "id": run.id,
                "label": run_list.label(own, keys),
                "overrides": own,
                "verb": run_list.full_verb(plan),
                "flags": portable(run_list.flags(plan, run)),
                "metrics": result["metrics"],
                "seconds": round(record.seconds(), 1),
                "attempts": len(record.attempts()),
                "machine": result["machine"],
                "settings": {} if is_training else portable(result.get("settings", {})),
                "warnings": result.get("warnings", []),
            }
        )
    return rows


def command(verb: str, flags: Mapping[str, Any]) -> str:
    """Returns the command line of a verb and its flags; see `run_list.flags`."""
    words = [run_list.assignment(name, value) for name, value in flags.items()]
    return shlex.join(["glide", *verb.split(), *words])


def warnings(rows: Sequence[Row]) -> list[str]:
    """Returns the warnings of all rows, each once."""
    return list(dict.fromkeys(line for row in rows for line in row["warnings"]))


def write_rows(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes one row a line, in place of what the file held.

    Raises:
      UserError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(_without_nan(row)) + "\n" for row in rows)
        files.write_text(path, "".join(lines))
    except OSError as error:
        raise UserError(
            f"--rows={path} cannot be written ({error.strerror}); name a file such as "
            "experiments/results/sweeps/lr_batch.jsonl"
        ) from error


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the rows of a file of `write_rows`.

    Raises:
      UserError: A line is not a row, or of another schema.
    """
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; write it by glide sweep --root=DIR --report "
            f"--rows={path}"
        )
    lines = path.read_bytes().splitlines()
    return [
        _parse(line, f"{path}, line {i}", ROW_SCHEMA, _ROW_KINDS)
        for i, line in enumerate(lines, 1)
    ]


def _parse(
    text: bytes, where: str, schema: int, kinds: Mapping[str, tuple[type, ...]]
) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:  # also UnicodeDecodeError
        raise UserError(f"{where} is not JSON ({error}); {_REMEDY}") from error
    given = fields.get("schema") if isinstance(fields, dict) else None
    if given != schema:
        raise UserError(
            f"{where} has schema {given}, and this version reads {schema}; {_REMEDY}"
        )
    try:
        json_fields.check(fields, kinds)
        number = (int, float, type(None))
        json_fields.check(fields["metrics"], dict.fromkeys(fields["metrics"], number))
    except TypeError as error:
        raise UserError(f"{where} is not a result: {error}; {_REMEDY}") from error
    return fields


def _without_nan(value: Any) -> Any:
    """Returns JSON values with null for NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _portable_overrides(plan: run_list.Plan) -> list[dict[str, Any]]:
    """Returns what each run overrides, with paths as short as keeps runs apart."""
    given = [run.overrides for run in plan.runs]
    count = _count_distinct(given)
    depth, overrides = 1, portable(given)
    while _count_distinct(overrides) < count:
        depth += 1
        overrides = portable(given, depth)
    return overrides


def _count_distinct(values: Sequence[Any]) -> int:
    return len({json.dumps(value, sort_keys=True) for value in values})


def portable(value: Any, depth: int = 1) -> Any:
    """Returns JSON values without absolute paths.

    A path below the working folder becomes relative to it. Of another path the last
    `depth` parts stay: clip:/home/me/runs/clip becomes clip:clip. Paths are recognised
    as flags and settings write them: alone, as KIND:PATH, or several between commas.
    """
    if isinstance(value, dict):
        return {name: portable(item, depth) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, depth) for item in value]
    if not isinstance(value, str):
        return value
    items = (item.split(":") for item in value.split(","))
    return ",".join(
        ":".join(_portable_path(part, depth) for part in item) for item in items
    )


def _portable_path(text: str, depth: int) -> str:
    bare = text.lstrip(" '\"([")  # the quotes and brackets of a written tuple
    if not bare.startswith("/") or bare.startswith("//"):
        return text
    path, here = pathlib.Path(bare), pathlib.Path.cwd()
    is_below = path.is_relative_to(here)
    shown = path.relative_to(here) if is_below else "/".join(path.parts[1:][-depth:])
    return f"{text[: len(text) - len(bare)]}{shown}"

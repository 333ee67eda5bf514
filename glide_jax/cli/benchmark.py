"""Time the sampler or a training step on this machine: one JSON row.

    glide benchmark sample --config=experiments/configs/base64.py:released
    glide benchmark sample --config=experiments/configs/base64.py:released \\
        --upsampler_config=experiments/configs/upsample256.py:released \\
        --batch=8 --compute_dtype=bfloat16 --output=rows.jsonl
    glide benchmark sample --config=experiments/configs/base64.py:released \\
        --compute_dtype=float32 --passes=1
    glide benchmark train --config=experiments/configs/base64.py:released --batch=64

Weights, captions and pictures are random: what they say costs no time. --passes times
that many denoiser passes of each stage, where a whole picture would take minutes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from absl import flags

from glide_jax.cli import config_flag, define
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.config import defaults

# The least number of timed runs, bench.*.MIN_REPEATS; here it keeps --help quick.
MIN_REPEATS = {"sample": 5, "train": 10}
SAMPLE_ONLY = (
    "upsampler_config",
    "passes",
    "guidance_mode",
    "respacing",
    "upsampler_respacing",
)


def define_flags(values: flags.FlagValues) -> None:
    """What to time, how often, and where the row goes."""
    config_flag.define(values)
    config_flag.define(values, "upsampler_config")
    add = define.Define(values)
    meaning = "pictures at once: drawn (1), or in a step (train.global_batch_size)"
    add.whole("batch", meaning, least=1)
    meaning = "timed runs, of which the row has the median: 5 of sample, 10 of train"
    add.whole("repeats", meaning, least=1)
    meaning = "sample: denoiser passes of each stage, instead of whole pictures"
    add.whole("passes", meaning, least=1)
    meaning = "sample: of the base model; cfg (default) doubles its rows"
    add.choice("guidance_mode", ["none", "cfg"], meaning)
    meaning = "sample: timesteps of the base model, e.g. 150; the configuration's"
    add.text("respacing", meaning)
    add.text("upsampler_respacing", "sample: timesteps of the upsampler, e.g. fast27")
    add.text("compute_dtype", "float32, bfloat16 or float16; the configurations'")
    add.path("output", "file that the row is added to, e.g. rows.jsonl")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints the row, and adds it to --output."""
    if len(arguments) != 1 or arguments[0] not in MIN_REPEATS:
        raise UserError(
            f"{' '.join(arguments) or 'nothing'!r} cannot be timed; say what, "
            "glide benchmark sample or glide benchmark train"
        )
    (subject,) = arguments
    if values.config is None:
        raise UserError(
            "--config is missing, e.g. --config=experiments/configs/base64.py:released"
        )
    least = MIN_REPEATS[subject]
    if values.repeats is not None and values.repeats < least:
        raise UserError(
            f"--repeats={values.repeats} says little of glide benchmark {subject}; "
            f"time at least {least}"
        )
    repeats = values.repeats or least
    make_row = _prepare_sample if subject == "sample" else _prepare_train
    measure = make_row(values, repeats)
    with _open_output(values.output) as output:
        row = json.dumps(measure())
        print(row)
        if output is not None:
            output.write(row + "\n")
    return 0


def _prepare_sample(values: flags.FlagValues, repeats: int) -> Callable[[], Any]:
    """All that can be refused is; what comes back makes the row."""
    from glide_jax.bench import sampling

    base = _read_config(values, "config", {"sample.respacing": values.respacing})
    upsampler = None
    if values.upsampler_config is not None:
        changes = {"sample.respacing": values.upsampler_respacing}
        upsampler = _read_config(values, "upsampler_config", changes)
    elif values.upsampler_respacing is not None:
        raise UserError("--upsampler_respacing needs --upsampler_config")
    settings = sampling.Settings(
        values.batch or 1, values.guidance_mode or "cfg", values.passes, repeats
    )
    sampling.check(base, upsampler, settings)
    return lambda: sampling.benchmark(base, upsampler, settings)


def _prepare_train(values: flags.FlagValues, repeats: int) -> Callable[[], Any]:
    """As `_prepare_sample`."""
    from glide_jax.bench import training

    for name in SAMPLE_ONLY:
        if values[name].value is not None:
            raise UserError(
                f"--{name} is of glide benchmark sample; training has no use for it"
            )
    config = _read_config(values, "config", {"train.global_batch_size": values.batch})
    training.check(config)
    return lambda: training.benchmark(config, repeats=repeats)


def _read_config(
    values: flags.FlagValues, name: str, changes: Mapping[str, Any]
) -> defaults.Config:
    """The configuration of a flag, with what other flags say of it."""
    from glide_jax.config import resolve, validate

    example = "experiments/configs/base64.py:released"
    config = config_flag.read(values, name, example=example)
    given = {**changes, "model.compute_dtype": values.compute_dtype}
    config = resolve.override(
        config, {path: value for path, value in given.items() if value is not None}
    )
    validate.validate(config)
    return config


@contextlib.contextmanager
def _open_output(path: str | None) -> Iterator[IO[str] | None]:
    """The file to add to, opened before the work, or None."""
    if path is None:
        yield None
        return
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115, closed below
    except OSError as error:
        raise UserError(
            f"--output={path} cannot be written ({error.strerror}); name a file in a "
            "folder that is there, e.g. rows.jsonl"
        ) from error
    with file:
        yield file

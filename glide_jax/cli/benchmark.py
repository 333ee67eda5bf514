"""Time the sampler on this machine: one JSON row.

    glide benchmark sample --config=experiments/configs/base64.py:released
    glide benchmark sample --config=experiments/configs/base64.py:released \\
        --upsampler_config=experiments/configs/upsample256.py:released \\
        --batch=8 --compute_dtype=bfloat16 --output=rows.jsonl
    glide benchmark sample --config=experiments/configs/base64.py:released \\
        --compute_dtype=float32 --passes=1

Weights and captions are random: what they say costs no time. --passes times that many
denoiser passes of each stage, where a whole picture would take minutes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.config import defaults

MIN_REPEATS = 5  # bench.timing.MIN_REPEATS; naming it here keeps --help quick


def define_flags(values: flags.FlagValues) -> None:
    """Models, what to draw, how often, and where the row goes."""
    from ml_collections import config_flags

    for name, stage in (("config", "base model"), ("upsampler_config", "upsampler")):
        config_flags.DEFINE_config_file(
            name,
            help_string=f"the {stage}'s run: a file with get_config(size), as "
            f"PATH:SIZE; single settings follow as --{name}.section.key=value",
            lock_config=True,
            flag_values=values,
        )

    add = define.Define(values)
    add.whole("batch", "pictures drawn at once", 1, least=1)
    meaning = "timed runs; the row has their median"
    add.whole("repeats", meaning, MIN_REPEATS, least=MIN_REPEATS)
    meaning = "denoiser passes of each stage, instead of whole pictures"
    add.whole("passes", meaning, least=1)
    meaning = "of the base model; cfg doubles its rows"
    add.choice("guidance_mode", ["none", "cfg"], meaning, "cfg")
    add.text("respacing", "timesteps of the base model, e.g. 150; the configuration's")
    add.text("upsampler_respacing", "timesteps of the upsampler, e.g. fast27")
    add.text("compute_dtype", "float32, bfloat16 or float16; the configurations'")
    add.text("output", "file that the row is added to, e.g. rows.jsonl")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints the row, and adds it to --output."""
    if arguments != ["sample"]:
        raise UserError(
            f"{' '.join(arguments) or 'nothing'!r} cannot be timed; say what, e.g. "
            "glide benchmark sample"
        )
    if values.config is None:
        raise UserError(
            "--config is missing, e.g. --config=experiments/configs/base64.py:released"
        )
    from glide_jax.bench import sampling

    base = _read_config(values, "config", values.respacing)
    upsampler = None
    if values.upsampler_config is not None:
        upsampler = _read_config(values, "upsampler_config", values.upsampler_respacing)
    elif values.upsampler_respacing is not None:
        raise UserError("--upsampler_respacing needs --upsampler_config")
    settings = sampling.Settings(
        values.batch, values.guidance_mode, values.passes, values.repeats
    )
    sampling.check(base, upsampler, settings)
    with _open_output(values.output) as output:
        row = json.dumps(sampling.benchmark(base, upsampler, settings))
        print(row)
        if output is not None:
            output.write(row + "\n")
    return 0


def _read_config(
    values: flags.FlagValues, name: str, respacing: str | None
) -> defaults.Config:
    """The configuration of a flag, with what other flags say of it."""
    from glide_jax.config import resolve, validate

    try:
        values[name].value.lock()
    except OSError as error:  # ml_collections tells of a missing file at its first use
        raise UserError(
            f"--{name}: {str(error).splitlines()[-1].strip()}; name a file such as "
            "experiments/configs/base64.py:released"
        ) from error
    given = {
        "sample.respacing": respacing,
        "model.compute_dtype": values.compute_dtype,
    }
    config = resolve.override(
        resolve.from_config_dict(values[name].value),
        {path: value for path, value in given.items() if value is not None},
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

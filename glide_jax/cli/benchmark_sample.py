"""Time the sampler on this machine: one JSON row.

    glide benchmark sample --config=experiments/configs/base64.py:released
    glide benchmark sample --config=experiments/configs/base64.py:released \\
        --upsampler_config=experiments/configs/upsample256.py:released \\
        --batch=8 --compute_dtype=bfloat16 --output=rows.jsonl
    glide benchmark sample --config=experiments/configs/base64.py:released \\
        --compute_dtype=float32 --passes=1
    glide benchmark sample --config=experiments/configs/base64_halve.py:released

Weights and captions are random; this does not change the time. --passes times this
number of denoiser passes of each stage, for machines where a whole image takes minutes.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import benchmark, config_flag
from glide_jax.errors import UserError

MIN_REPEATS = 5  # equals bench.timing's, whose import would slow down --help


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the models, the repeats and the output."""
    meaning = "images sampled at once; default: 1"
    add = benchmark.define_flags(values, MIN_REPEATS, meaning)
    config_flag.define(values, "upsampler_config")
    meaning = "denoiser passes of each stage; default: a whole image"
    add.whole("passes", meaning, least=1)
    meaning = "guidance of the base model; cfg (default) doubles its rows"
    add.choice("guidance_mode", ["none", "cfg"], meaning)
    meaning = "timesteps of the base model, e.g. 150; default: the configuration's"
    add.text("respacing", meaning)
    meaning = "timesteps of the upsampler, e.g. fast27; default: the configuration's"
    add.text("upsampler_respacing", meaning)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Checks everything before the measurement, then measures."""
    from glide_jax.bench import sampling

    benchmark.check(values, arguments, "benchmark sample", MIN_REPEATS)
    changes = {"sample.respacing": values.respacing}
    base = benchmark.read_config(values, "config", changes)
    upsampler = None
    if values.upsampler_config is not None:
        changes = {"sample.respacing": values.upsampler_respacing}
        upsampler = benchmark.read_config(values, "upsampler_config", changes)
    elif values.upsampler_respacing is not None:
        raise UserError("--upsampler_respacing requires --upsampler_config; give both")
    settings = sampling.Settings(
        values.batch or 1, values.guidance_mode or "cfg", values.passes, values.repeats
    )
    sampling.check(base, upsampler, settings)
    return benchmark.write_row(
        values, lambda: sampling.benchmark(base, upsampler, settings)
    )

"""Time the sampler on this machine: one JSON row.

    glide benchmark sample --config=experiments/configs/base64.py:released
    glide benchmark sample --config=experiments/configs/base64.py:released \\
        --upsampler_config=experiments/configs/upsample256.py:released \\
        --batch=8 --compute_dtype=bfloat16 --output=rows.jsonl
    glide benchmark sample --config=experiments/configs/base64.py:released \\
        --compute_dtype=float32 --passes=1

Weights and captions are random, which does not change the time. --passes times that
many denoiser passes of each stage, for machines where a whole picture takes minutes.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import benchmark, config_flag
from glide_jax.errors import UserError

MIN_REPEATS = 5  # bench.timing.MIN_REPEATS; here it keeps --help quick


def define_flags(values: flags.FlagValues) -> None:
    """What to time, how often, and where the row goes."""
    add = benchmark.define_flags(values, MIN_REPEATS, "pictures drawn at once; 1")
    config_flag.define(values, "upsampler_config")
    add.whole("passes", "denoiser passes of each stage, not whole pictures", least=1)
    meaning = "guidance of the base model; cfg (default) doubles its rows"
    add.choice("guidance_mode", ["none", "cfg"], meaning)
    meaning = "timesteps of the base model, e.g. 150; the configuration's"
    add.text("respacing", meaning)
    meaning = "timesteps of the upsampler, e.g. fast27; the configuration's"
    add.text("upsampler_respacing", meaning)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Refuses all that can be refused before it measures."""
    from glide_jax.bench import sampling

    benchmark.check(values, arguments, "benchmark sample", MIN_REPEATS)
    changes = {"sample.respacing": values.respacing}
    base = benchmark.read_config(values, "config", changes)
    upsampler = None
    if values.upsampler_config is not None:
        changes = {"sample.respacing": values.upsampler_respacing}
        upsampler = benchmark.read_config(values, "upsampler_config", changes)
    elif values.upsampler_respacing is not None:
        raise UserError("--upsampler_respacing needs --upsampler_config")
    settings = sampling.Settings(
        values.batch or 1, values.guidance_mode or "cfg", values.passes, values.repeats
    )
    sampling.check(base, upsampler, settings)
    return benchmark.write_row(
        values, lambda: sampling.benchmark(base, upsampler, settings)
    )

"""Times sampling and measures the utilisation of the machine.

Each stage is the program that `glide sample` runs, with random weights and captions.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax import array_types
from glide_jax.bench import machine, timing, weights
from glide_jax.config import defaults
from glide_jax.diffusion import respacing, samplers
from glide_jax.errors import UserError
from glide_jax.models import attention_kernels, build
from glide_jax.runtime import random_streams
from glide_jax.sample import restore, stage, stage_inputs


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark.

    Attributes:
      batch: number of images sampled at once.
      guidance_mode: "none" or "cfg", of the base model.
      passes: denoiser passes of each stage; None: those of a whole image.
      repeats: timed runs of each stage.
    """

    batch: int = 1
    guidance_mode: str = "cfg"
    passes: int | None = None
    repeats: int = timing.MIN_REPEATS


def benchmark(
    base: defaults.Config, upsampler: defaults.Config | None, settings: Settings
) -> dict[str, Any]:
    """Returns one row of JSON values: times, FLOPs and measured peaks.

    The weights of one stage are freed before the next stage starts.
    """
    stages = {"base": _measure(base, settings, settings.guidance_mode)}
    if upsampler is not None:
        stages["upsampler"] = _measure(upsampler, settings, "none")
    dtype = base.model.compute_dtype
    matmul_peak, conv_peak = machine.matmul_peak(dtype), machine.conv_peak(dtype)
    return {
        "benchmark": "sample",
        "implementation": "glide_jax",
        "machine": machine.describe(),
        **dataclasses.asdict(settings),
        "compute_dtype": dtype,
        "seconds_per_image": _per_image(stages, settings),
        "matmul_peak_flops": timing.rounded(matmul_peak),
        "conv_peak_flops": timing.rounded(conv_peak),
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "stages": {
            name: measured.to_json(matmul_peak) for name, measured in stages.items()
        },
    }


def check(
    base: defaults.Config, upsampler: defaults.Config | None, settings: Settings
) -> None:
    """Raises UserError unless the models form a cascade."""
    if build.role_of(base.model) != "base":
        raise UserError(
            f"config {base.name!r} is not of a base model; give an upsampler's as "
            "--upsampler_config"
        )
    if settings.passes is not None:
        _num_passes(base, str(settings.passes))
        for config in filter(None, (base, upsampler)):
            if config.train.student_steps:
                raise UserError(
                    f"--passes={settings.passes} has no effect on {config.name!r}, a "
                    f"student of {config.train.student_steps} steps; leave it out"
                )
    if upsampler is None:
        return
    px, low_res_px = base.model.image_px, getattr(upsampler.model, "low_res_px", 0)
    if low_res_px != px:
        raise UserError(
            f"upsampler_config {upsampler.name!r} has low_res_px={low_res_px}, but "
            f"config {base.name!r} has image_px={px}; use models of one size"
        )
    dtypes = base.model.compute_dtype, upsampler.model.compute_dtype
    if dtypes[0] != dtypes[1]:
        raise UserError(
            f"the models compute in {dtypes[0]} and {dtypes[1]}, but a row has one "
            "measured peak; give --compute_dtype for both"
        )


@dataclasses.dataclass(frozen=True)
class StageTimes:
    """Measurements of one stage.

    Attributes:
      config: settings of the model's run.
      respacing: of the timed program.
      passes: denoiser passes in one run of the program.
      whole_passes: denoiser passes of a whole image.
      rows: images in a pass; guidance doubles them.
      compile_seconds: compilation time.
      seconds: of each run: encoding of the caption and all passes.
      pass_flops_xla: of one pass, as XLA counts them; None if not reported.
    """

    config: defaults.Config
    respacing: str
    passes: int
    whole_passes: int
    rows: int
    compile_seconds: float
    seconds: list[float]
    pass_flops_xla: float | None

    def to_json(self, peak: float) -> dict[str, Any]:
        """Returns the row's entry; utilisation is a share of `peak`, FLOP/s."""
        parts = build.forward_flops(self.config.model)
        pass_flops = self.rows * parts["unet"]
        run_flops = self.rows * sum(parts.values()) + (self.passes - 1) * pass_flops
        whole = timing.spread(self.seconds)
        return {
            "config": self.config.name,
            "sampler": self.config.sample.sampler,
            "respacing": self.respacing,
            "passes": self.passes,
            "rows": self.rows,
            "compile_seconds": timing.rounded(self.compile_seconds),
            "seconds": whole.to_json(),
            "seconds_per_pass": whole.per(self.passes).to_json(),
            "flops_per_pass": timing.rounded(pass_flops),
            "flops_per_pass_xla": self.pass_flops_xla,
            "utilisation": timing.rounded(run_flops / whole.median / peak),
        }


def _measure(
    config: defaults.Config, settings: Settings, guidance_mode: str
) -> StageTimes:
    model = _denoiser_config(config)
    fns = build.make_denoiser(
        model,
        attention=attention_kernels.attend,
        prediction=config.diffusion.prediction,
    )
    # In the dtypes that a loaded bundle has in memory.
    params = weights.random_params(config.model)
    params = jax.device_put(restore.in_memory(params, config.model.compute_dtype))
    is_guided = guidance_mode == "cfg"
    spec = config.sample.respacing
    if settings.passes is not None:
        spec = str(settings.passes)
    draw = stage.make_stage(
        config,
        fns,
        stage.StageSettings.of(
            dataclasses.replace(config.sample, respacing=spec), guidance_mode
        ),
    )
    arguments = (params, None, _make_inputs(config, settings.batch, is_guided))
    start = time.perf_counter()
    program = draw.compiled(*arguments)
    compile_seconds = time.perf_counter() - start
    rows = settings.batch * (2 if is_guided and not model.guidance_range else 1)
    return StageTimes(
        config,
        spec,
        _num_passes(config, spec),
        _num_passes(config, config.sample.respacing),
        rows,
        compile_seconds,
        timing.time_calls(program, *arguments, repeats=settings.repeats),
        _count_by_xla(config, params, rows),
    )


def _per_image(
    stages: dict[str, StageTimes], settings: Settings
) -> dict[str, float | str]:
    """Returns seconds per image over all stages, extrapolated from fewer passes."""
    runs = [
        sum(
            seconds * times.whole_passes / times.passes
            for seconds, times in zip(run, stages.values(), strict=True)
        )
        for run in zip(*(times.seconds for times in stages.values()), strict=True)
    ]
    per_image = timing.spread(runs).per(settings.batch).to_json()
    how = "measured" if settings.passes is None else "extrapolated from the passes"
    return {**per_image, "how": how}


def _make_inputs(
    config: defaults.Config, batch: int, is_guided: bool
) -> stage_inputs.StageInputs:
    """Makes captions that fill half of the context, and a random low_res image."""
    rng, model = np.random.default_rng(0), _denoiser_config(config)
    shape = (batch, model.text_context)
    tokens = jnp.asarray(rng.integers(0, model.vocab_size, shape, dtype=np.int32))
    is_filled = jnp.arange(model.text_context) < model.text_context // 2
    text_mask = jnp.broadcast_to(is_filled, shape)
    low_res = None
    if model.low_res_px:
        side = model.low_res_px
        low_res = rng.uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)
    empty = stage_inputs.Caption(tokens[:1], jnp.zeros((1, model.text_context), bool))
    return jax.device_put(
        stage_inputs.StageInputs(
            keys=random_streams.image_keys(
                0, np.arange(batch), random_streams.BASE_STAGE
            ),
            caption=stage_inputs.Caption(tokens[:, None], text_mask[:, None]),
            empty=empty if is_guided else None,
            guidance_scale=config.sample.guidance_scale,
            eta=config.sample.eta,
            noise_temperature=config.sample.noise_temperature,
            low_res=low_res,
        )
    )


def _denoiser_config(config: defaults.Config) -> defaults.Text2ImConfig:
    assert isinstance(config.model, defaults.Text2ImConfig), "see check()"
    return config.model


def _num_passes(config: defaults.Config, spec: str) -> int:
    diffusion = config.diffusion
    kept = respacing.kept_timesteps(diffusion.num_timesteps, spec, diffusion.schedule)
    return len(kept) * samplers.SAMPLERS[config.sample.sampler].calls_per_step


def _count_by_xla(
    config: defaults.Config, params: array_types.Params, rows: int
) -> float | None:
    """Returns the FLOPs of one pass with XLA's attention; it cannot count kernels'."""
    size = _denoiser_config(config)
    plain = build.make_denoiser(size, prediction=config.diffusion.prediction)
    caption = rows, size.text_context
    text = jax.eval_shape(
        plain.encode,
        params,
        jax.ShapeDtypeStruct(caption, jnp.int32),
        jax.ShapeDtypeStruct(caption, jnp.bool_),
    )
    x_t = jax.ShapeDtypeStruct((rows, size.image_px, size.image_px, 3), jnp.float32)
    timesteps = jax.ShapeDtypeStruct((rows,), jnp.int32)
    scale = jax.ShapeDtypeStruct((rows,), jnp.float32) if size.guidance_range else None
    lowered = jax.jit(plain.denoise).lower(
        params, x_t, timesteps, text, guidance_scale=scale
    )
    return (lowered.cost_analysis() or {}).get("flops")

"""Estimate memory, time and cost of a run on other machines.

    glide plan --config=experiments/configs/base64.py:paper --topology=v5p:4x4x8
    glide plan --config=experiments/configs/base64.py:paper --topology=v6e:16x16 \\
        --slices=2 --price=2.70 --json
    glide plan --config=experiments/configs/upsample256.py:paper --chips=h100:64 \\
        --search
    glide plan --config=experiments/configs/base64.py:released --topology=v5e:4x4 \\
        --compile
    glide plan --config=experiments/configs/base64_cfg.py:paper --topology=v5p:4x4x8 \\
        --pictures=30000 --config.sample.respacing=250
    glide plan --config=experiments/configs/base64.py:paper --chips=h100:64 --compile
    glide plan --config=experiments/configs/base64.py:released --chips=h100:1 \\
        --config.train.global_batch_size=32 --pictures=16 --compile \\
        --guidance_mode=clip --clip_config=experiments/configs/noised_clip64.py:released

No accelerator is needed. --compile runs the compiler of the chips on this CPU: libtpu
for TPUs (pip install -e ".[tpu]"), the CUDA plugin of JAX for GPUs (".[gpu-compile]").
With --pictures it also compiles the sampler, for the batch of `glide sample`.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from absl import flags

from glide_jax.cli import config_flag, define
from glide_jax.errors import UserError

DEFAULT_MFU = 0.4  # equals plan.cost.DEFAULT_MFU, whose import would slow down --help


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the run, the chips and the report."""
    config_flag.define(values)
    add = define.Define(values)
    add.text("topology", "TPUs: kind and shape of a slice, e.g. v5p:4x4x8")
    add.whole("slices", "number of slices, connected by DCN", least=1)
    add.text("chips", "GPUs: kind and number, e.g. h100:64")
    meaning = "assumed share of the chips' peak that the model's operations reach"
    add.number("mfu", meaning, DEFAULT_MFU)
    meaning = "also estimate sampling of this many images, by config.sample, on all "
    meaning += "hosts, and judging them"
    add.whole("pictures", meaning, least=1)
    _define_sampling(values, add)
    add.number("price", "of one chip for one hour, in any currency, e.g. 4.20")
    meaning = "compile the step, and with --pictures the sampler, for the chips; "
    meaning += "report memory and roofline"
    add.switch("compile", meaning, False)
    meaning = "rank remat policies and microbatches, use and compile the best"
    add.switch("search", meaning, False)
    add.switch("json", "print the whole report as one JSON object", False)


def _define_sampling(values: flags.FlagValues, add: define.Define) -> None:
    """Defines what --pictures samples; the flags are those of `glide sample`."""
    from glide_jax.sample import options

    meaning = "guidance of the base model by --pictures; default: cfg if "
    meaning += "config.train.caption_drop_prob is above 0, else none"
    add.choice("guidance_mode", list(options.GUIDANCE_MODES), meaning)
    meaning = "inpainting by --pictures; default: pinned if config.model.inpaint"
    add.choice("inpaint_mode", list(options.INPAINT_MODES), meaning)
    config_flag.define(values, "clip_config")


def _sampling(values: flags.FlagValues) -> Any:
    """Returns the sampling of --pictures; None without it."""
    from glide_jax.plan import sampling

    if values.pictures is None:
        for name in ("guidance_mode", "inpaint_mode", "clip_config"):
            if values[name].value is not None:
                raise UserError(
                    f"--{name} describes sampling and no pictures are planned; give "
                    "--pictures=N as well"
                )
        return None
    clip = None
    if values.clip_config is not None:
        example = "experiments/configs/noised_clip64.py:paper"
        clip = config_flag.read(values, "clip_config", example=example)
    return sampling.Sampling(
        values.pictures, values.guidance_mode, values.inpaint_mode, clip
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints the report."""
    from glide_jax.plan import abstract_devices, device_topology

    if arguments:
        raise UserError(
            f"{arguments[0]!r} is not a flag; settings are --config.a.b=value"
        )
    where = device_topology.parse(values.topology, values.chips, values.slices)
    if not 0 < values.mfu <= 1:
        raise UserError(f"--mfu={values.mfu} is outside (0, 1]; use a share, e.g. 0.4")
    if values.price is not None and not 0 <= values.price < math.inf:
        raise UserError(f"--price={values.price} is not a price; use 0 or more")
    # Before the import of jax, which reads the environment once.
    abstract_devices.prepare_environment(where)
    from glide_jax.plan import page, report

    plan = report.make_plan(
        config_flag.read(values, example="experiments/configs/base64.py:paper"),
        where,
        mfu=values.mfu,
        price=values.price,
        draws=_sampling(values),
        compiles=values.compile,
        searches=values.search,
        on_compile=lambda name: print(
            f"compiling {name}; this takes minutes", file=sys.stderr
        ),
    )
    print(json.dumps(plan, indent=2) if values.json else page.to_text(plan))
    return 0

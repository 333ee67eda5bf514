"""What a run would take of machines that are not here: bytes, time, cost.

    glide plan --config=experiments/configs/base64.py:paper --topology=v5p:4x4x8
    glide plan --config=experiments/configs/base64.py:paper --topology=v6e:16x16 \\
        --slices=2 --price=2.70 --json
    glide plan --config=experiments/configs/upsample256.py:paper --chips=h100:64 \\
        --search
    glide plan --config=experiments/configs/base64.py:released --topology=v5e:4x4 \\
        --compile
    glide plan --config=experiments/configs/base64_cfg.py:paper --topology=v5p:4x4x8 \\
        --pictures=30000 --config.sample.respacing=250

Needs no accelerator and starts none. --compile asks the TPU's own compiler, which
libtpu brings to any CPU (pip install -e ".[tpu]").
"""

from __future__ import annotations

import json
import math

from absl import flags

from glide_jax.cli import config_flag, define
from glide_jax.errors import UserError

DEFAULT_MFU = 0.4  # plan.cost.DEFAULT_MFU; naming it here keeps --help quick


def define_flags(values: flags.FlagValues) -> None:
    """What is planned, for which chips, and what is asked of it."""
    config_flag.define(values)
    add = define.Define(values)
    add.text("topology", "TPUs: kind and shape of a slice, e.g. v5p:4x4x8")
    add.whole("slices", "of that shape, joined by the data-centre network", least=1)
    add.text("chips", "GPUs instead: kind and number, e.g. h100:64")
    meaning = "share of the chips' peak that the model's own operations are to reach"
    add.number("mfu", meaning, DEFAULT_MFU)
    meaning = "also what drawing so many pictures takes, at config.sample's settings"
    add.whole("pictures", meaning, least=1)
    add.number("price", "of one chip for one hour, in any currency, e.g. 4.20")
    meaning = "compile the real step for the chips and report the compiler's bytes"
    add.switch("compile", meaning, False)
    meaning = "rank remat policies and microbatches, take and compile the best"
    add.switch("search", meaning, False)
    add.switch("json", "print the whole report as one JSON object", False)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints the report."""
    from glide_jax.plan import device_topology

    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag; settings are --config.a.b=value")
    where = device_topology.parse(values.topology, values.chips, values.slices)
    if not 0 < values.mfu <= 1:
        raise UserError(f"--mfu={values.mfu} is outside (0, 1]; use a share, e.g. 0.4")
    if values.price is not None and not 0 <= values.price < math.inf:
        raise UserError(f"--price={values.price} is no price; use 0 or more")
    # Before jax is imported, which reads it once.
    device_topology.prepare_environment()
    from glide_jax.plan import page, report

    found = report.make_plan(
        config_flag.read(values, example="experiments/configs/base64.py:paper"),
        where,
        mfu=values.mfu,
        price=values.price,
        pictures=values.pictures,
        compiles=values.compile,
        searches=values.search,
    )
    print(json.dumps(found, indent=2) if values.json else page.to_text(found))
    return 0

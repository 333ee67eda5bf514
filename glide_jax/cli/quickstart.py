"""The whole of GLIDE at toy size: train six phases, sample, measure, draw.

    glide quickstart --output=runs/quickstart
    glide quickstart --output=runs/smoke --scale=0.01

Ends with samples.png and report.json in the output folder, and prints the figures and
a command that draws with the trained models. Started again, it skips what is done and
resumes what was cut off.
"""

from __future__ import annotations

import math
import shlex

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError
from glide_jax.runtime import paths


def define_flags(values: flags.FlagValues) -> None:
    """--output, --scale."""
    add = define.Define(values)
    add.path("output", "folder of everything made", "runs/quickstart")
    flags.DEFINE_float(
        "scale",
        1.0,
        "share of the training steps and of the measured pictures, e.g. 0.01 to try",
        lower_bound=0.0,
        upper_bound=10.0,
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Does what is left to do, and writes the report and the sheet."""
    from glide_jax.quickstart import ledger, measure, phases, report
    from glide_jax.runtime import lifecycle
    from glide_jax.train import run_folder

    if arguments:
        raise UserError(f"{arguments[0]!r} is no flag; see glide quickstart --help")
    # absl lets nan pass its bounds.
    if not math.isfinite(values.scale):
        raise UserError(f"--scale={values.scale} is not finite; e.g. --scale=0.01")
    root = paths.local_path(values.output, "--output")
    run_folder.prepare(root, flag="--output")
    done = ledger.Ledger(root / "ledger.json")
    done.keep_setting("scale", values.scale)
    for phase in phases.PHASES:
        code = phases.run_phase(phase, root, done, scale=values.scale)
        if code != lifecycle.ExitCode.OK:
            return code
    counts = measure.Counts(min(values.scale, 1.0))
    measurements = measure.Measurements(root, done, counts)
    measurements.run()
    print(report.as_text(report.write(root, done, measurements)))
    bundles = root / "bundles"
    print(f"\npictures: {root / 'samples.png'}")
    print(f"figures:  {root / 'report.json'}")
    print(f"bundles:  {bundles}")
    command = ["glide", "sample", f"--base={bundles / 'base_cfg'}"]
    command += [f"--upsampler={bundles / 'upsampler'}", f"--output={root / 'out'}"]
    command += ["--prompt=a large red triangle on a white background"]
    print(f"now try:  {shlex.join(command)}")
    return lifecycle.ExitCode.OK

"""Train all six phases of GLIDE at toy size, sample, and score the samples.

    glide quickstart --output=runs/quickstart
    glide quickstart --output=runs/smoke --scale=0.01

It writes samples.png and report.json to the output folder, and prints the results and a
command that samples with the trained models. The same command skips finished tasks and
resumes an interrupted one.
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
    add.path("output", "output folder", "runs/quickstart")
    flags.DEFINE_float(
        "scale",
        1.0,
        "share of the training steps and of the scored pictures, e.g. 0.01 for a test",
        lower_bound=0.0,
        upper_bound=10.0,
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Runs the remaining tasks, and writes the report and the contact sheet."""
    from glide_jax.quickstart import measure, phases, report
    from glide_jax.runtime import ledger, lifecycle
    from glide_jax.train import run_folder

    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag; see glide quickstart --help")
    # NaN passes the bounds of absl.
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
    print(f"results:  {root / 'report.json'}")
    print(f"bundles:  {bundles}")
    command = ["glide", "sample", f"--base={bundles / 'base_cfg'}"]
    command += [f"--upsampler={bundles / 'upsampler'}", f"--output={root / 'out'}"]
    command += ["--prompt=a large red triangle on a white background"]
    print(f"next:     {shlex.join(command)}")
    return lifecycle.ExitCode.OK

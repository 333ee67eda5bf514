"""Time glide_jax and a checkout of openai/glide-text2im by turns on one machine.

    python experiments/benchmarks/side_by_side.py --checkout=glide-text2im \\
        --torch_python=/path/to/torch/env/bin/python --passes=2 \\
        --output=experiments/results/benchmark/cpu.json

    python experiments/benchmarks/side_by_side.py --checkout=glide-text2im \\
        --torch_python=/path/to/torch/env/bin/python --train --batch=2 \\
        --output=experiments/results/benchmark/train_side_by_side.json

    python experiments/benchmarks/side_by_side.py --checkout=glide-text2im \\
        --torch_python=/path/to/torch/env/bin/python --students --rounds=1 \\
        --output=experiments/results/benchmark/students_side_by_side.json

Run it with the Python that has glide_jax. Each run is a process of its own, A B A B,
so that a machine that slows down or warms up does so for both. The file holds every
row and, by stage, glide_jax's seconds over the other's: below 1 is faster.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parent / "configs"
OURS, THEIRS = "glide_jax", "glide-text2im"


def main() -> None:
    arguments = read_arguments()
    output = pathlib.Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = alternate(make_commands(arguments), arguments.rounds)
    result = {"ratio": ratios(rows[OURS], rows[THEIRS]), "rows": rows}
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["ratio"]))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", required=True, help="of openai/glide-text2im")
    parser.add_argument("--torch_python", required=True, help="a Python with torch")
    parser.add_argument("--output", required=True, help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
    parser.add_argument(
        "--batch", type=int, default=1, help="pictures drawn at once, or of a step"
    )
    parser.add_argument(
        "--guidance_mode",
        choices=["none", "cfg"],
        help="of the base model; default: cfg",
    )
    parser.add_argument(
        "--passes", type=int, help="2 or more, instead of whole pictures"
    )
    parser.add_argument(
        "--compute_dtype", choices=["float32", "float16"], default="float32"
    )
    parser.add_argument("--base_only", action="store_true", help="no upsampler")
    parser.add_argument(
        "--train", action="store_true", help="training steps of the base model"
    )
    parser.add_argument(
        "--students",
        action="store_true",
        help="ours are students of four and two steps, which draw whole pictures; "
        "--passes is for the checkout alone",
    )
    arguments = parser.parse_args()
    if arguments.students and (arguments.train or arguments.base_only):
        parser.error("--students draws pictures; leave --train and --base_only out")
    sampling = arguments.passes, arguments.base_only, arguments.guidance_mode
    if arguments.train and any(sampling):
        parser.error(
            "--train times steps of the base model; leave --passes, --base_only and "
            "--guidance_mode out"
        )
    arguments.guidance_mode = arguments.guidance_mode or "cfg"
    if arguments.passes is not None and arguments.passes < 2:
        parser.error("--passes: the checkout's tables need at least 2 timesteps")
    return arguments


def make_commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The two commands, of the same models and settings."""
    glide = [sys.executable, "-m", "glide_jax.cli.main", "benchmark"]
    reference = [arguments.torch_python, str(HERE / "reference_torch.py")]
    reference.append(f"--checkout={arguments.checkout}")
    base = f"--config={CONFIGS / 'base64.py'}:released"
    same = [
        f"--batch={arguments.batch}",
        f"--compute_dtype={arguments.compute_dtype}",
    ]
    if arguments.train:
        repeats = ["--repeats=10"]
        ours = [*glide, "train", base]
        theirs = [*reference, "--stages=base", "--train"]
        return {OURS: ours + same + repeats, THEIRS: theirs + same + repeats}
    same.append(f"--guidance_mode={arguments.guidance_mode}")
    if arguments.passes is not None:
        same.append(f"--passes={arguments.passes}")
    ours = [*glide, "sample", base]
    theirs = reference
    if arguments.base_only:
        theirs.append("--stages=base")
    else:
        ours.append(f"--upsampler_config={CONFIGS / 'upsample256.py'}:released")
    if arguments.students:
        ours = [*glide, "sample", f"--config={CONFIGS / 'base64_halve.py'}:released"]
        ours += [
            f"--upsampler_config={CONFIGS / 'upsample256_halve.py'}:released",
            "--upsampler_config.train.student_steps=2",
            "--upsampler_config.sample.respacing=grid2",
        ]
        return {OURS: ours + same[:2], THEIRS: theirs + same}
    return {OURS: ours + same, THEIRS: theirs + same}


def alternate(commands: dict[str, list[str]], rounds: int) -> dict[str, list[dict]]:
    """The row that each command prints last, of each of its runs."""
    rows: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{name} failed, see above: {' '.join(command)}")
            rows[name].append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def ratios(ours: list[dict], theirs: list[dict]) -> dict[str, dict[str, float]]:
    """Our seconds over theirs, round by round: median, least and most.

    By stage for a pass, and "image" for a picture; or "step" for a training step.
    """
    pairs = list(zip(ours, theirs, strict=True))
    if ours[0]["benchmark"] == "train":
        return {"step": _summarise([_ratio("step_seconds", *pair) for pair in pairs])}
    found = {"image": [_ratio("seconds_per_image", *pair) for pair in pairs]}
    for stage in ours[0]["stages"]:
        found[stage] = [
            _ratio("seconds_per_pass", *(row["stages"][stage] for row in pair))
            for pair in pairs
        ]
    return {name: _summarise(x) for name, x in found.items()}


def _summarise(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def _ratio(key: str, mine: dict, other: dict) -> float:
    return float(f"{mine[key]['median'] / other[key]['median']:.4g}")


if __name__ == "__main__":
    main()

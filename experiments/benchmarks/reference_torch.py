"""Time a checkout of openai/glide-text2im: one JSON row, as `glide benchmark sample`.

    git clone https://github.com/openai/glide-text2im
    python experiments/benchmarks/reference_torch.py --checkout=glide-text2im --passes=2
    python experiments/benchmarks/reference_torch.py --checkout=glide-text2im --train \\
        --stages=base --batch=2

With --train it times training steps: forward and backward pass, the mean squared error
of epsilon, and AdamW. They do less than those of `glide benchmark train`: no average of
the weights, no variance, and in float16 no float32 copies of the weights.

Run it in an environment that has torch and the checkout's other requirements; nothing
of glide_jax is needed. The models are the released sizes with random weights. Text is
encoded anew at every pass, as in the checkout's notebooks; --cache_text keeps it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import torch

GUIDANCE_SCALE = 3.0
PROMPT = "an oil painting of a corgi"
PUBLISHED_RESPACING = {"base": "150", "upsampler": "fast27"}
MATMUL_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
CONV_BATCH = {"cpu": 2, "cuda": 64}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", required=True, help="folder of the checkout")
    parser.add_argument("--stages", default="base,upsampler")
    parser.add_argument(
        "--batch", type=int, default=1, help="pictures drawn at once, or of a step"
    )
    parser.add_argument(
        "--guidance_mode",
        choices=["none", "cfg"],
        help="of the base model; default: cfg",
    )
    parser.add_argument("--compute_dtype", choices=["float32", "float16"])
    parser.add_argument(
        "--passes", type=int, help="2 or more, instead of whole pictures"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cache_text", action="store_true")
    parser.add_argument("--train", action="store_true", help="time training steps")
    parser.add_argument("--output", help="file that the row is added to")
    arguments = parser.parse_args()
    if not (pathlib.Path(arguments.checkout) / "glide_text2im").is_dir():
        parser.error(f"--checkout={arguments.checkout} has no folder glide_text2im")
    stages = arguments.stages.split(",")
    if not set(stages) <= PUBLISHED_RESPACING.keys():
        parser.error(f"--stages={arguments.stages}: give base, upsampler or both")
    if arguments.passes is not None and arguments.passes < 2:
        parser.error("--passes: the checkout's tables need at least 2 timesteps")
    if arguments.train and (len(stages) > 1 or arguments.passes):
        parser.error("--train takes one of --stages, and no --passes")
    if arguments.train and (arguments.cache_text or arguments.guidance_mode):
        parser.error("--train ignores --cache_text and --guidance_mode; leave them out")
    arguments.guidance_mode = arguments.guidance_mode or "cfg"
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.compute_dtype is None:
        arguments.compute_dtype = "float16" if arguments.device == "cuda" else "float32"
    if arguments.compute_dtype == "float16" and arguments.device == "cpu":
        parser.error("--compute_dtype=float16 needs a GPU")
    return arguments


def main() -> None:
    arguments = read_arguments()
    sys.path.insert(0, arguments.checkout)
    peak = matmul_peak(arguments.device, arguments.compute_dtype)
    if arguments.train:
        write_row(train_row(arguments, peak), arguments.output)
        return
    stages = {
        name: measure_stage(name, arguments, peak)
        for name in arguments.stages.split(",")
    }
    device = arguments.device
    row = {
        "benchmark": "sample",
        "implementation": "glide-text2im",
        "machine": describe(device),
        "batch": arguments.batch,
        "guidance_mode": arguments.guidance_mode,
        "passes": arguments.passes,
        "repeats": arguments.repeats,
        "compute_dtype": arguments.compute_dtype,
        "cache_text": arguments.cache_text,
        "seconds_per_image": per_image(stages, arguments),
        "matmul_peak_flops": rounded(peak),
        "conv_peak_flops": rounded(conv_peak(device, arguments.compute_dtype)),
        "peak_memory_bytes": (
            torch.cuda.max_memory_allocated() if device == "cuda" else None
        ),
        "stages": {name: entry for name, (entry, _, _) in stages.items()},
    }
    write_row(row, arguments.output)


def write_row(row, output):
    line = json.dumps(row)
    print(line)
    if output:
        with open(output, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def train_row(arguments, peak):
    """The row of a training step of the released size."""
    name, device = arguments.stages, arguments.device
    model, _, _ = make_model(name, arguments)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    conditions = make_conditions(name, model, arguments, arguments.batch)
    side = 64 if name == "base" else 256
    x_t = torch.randn((arguments.batch, 3, side, side), device=device)
    noise, timesteps = torch.randn_like(x_t), torch.randint(1000, x_t.shape[:1])

    def train():
        with torch.enable_grad():
            output = model(x_t, timesteps.to(device), **conditions)
            loss = (output[:, :3].float() - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()

    seconds = time_calls(train, device, arguments.repeats)
    return {
        "benchmark": "train",
        "implementation": "glide-text2im",
        "machine": describe(device),
        "config": f"{name}_released",
        "batch": arguments.batch,
        "repeats": arguments.repeats,
        "compute_dtype": arguments.compute_dtype,
        "step_seconds": spread(seconds),
        "matmul_peak_flops": rounded(peak),
    }


def measure_stage(name, arguments, peak):
    """The row's entry, the seconds of each run, and whole passes over timed ones."""
    model, diffusion, whole_passes = make_model(name, arguments)
    respacing = str(arguments.passes or PUBLISHED_RESPACING[name])
    is_guided = name == "base" and arguments.guidance_mode == "cfg"
    rows = arguments.batch * (2 if is_guided else 1)
    conditions = make_conditions(name, model, arguments, rows)
    denoise = guided(model) if is_guided else model
    side = 64 if name == "base" else 256
    shape = (rows, 3, side, side)
    loop = diffusion.p_sample_loop if name == "base" else diffusion.ddim_sample_loop

    def draw():
        model.del_cache()
        loop(denoise, shape, device=arguments.device, model_kwargs=conditions)

    seconds = time_calls(draw, arguments.device, arguments.repeats)
    model.del_cache()
    flops = count_flops(model, shape, conditions, arguments.device)
    passes = diffusion.num_timesteps
    times = spread(seconds)
    entry = {
        "config": f"{name}_released",
        "sampler": "ddpm" if name == "base" else "ddim",
        "respacing": respacing,
        "passes": passes,
        "rows": rows,
        "compile_seconds": None,
        "seconds": times,
        "seconds_per_pass": {key: rounded(x / passes) for key, x in times.items()},
        "flops_per_pass": flops,
        "utilisation": rounded(flops * passes / times["median"] / peak),
    }
    return entry, seconds, whole_passes / passes


def make_model(name, arguments):
    """The released size with random weights, its diffusion, passes of a picture."""
    from glide_text2im import model_creation as creation
    from glide_text2im import respace

    is_base = name == "base"
    options = (
        creation.model_and_diffusion_defaults()
        if is_base
        else creation.model_and_diffusion_defaults_upsampler()
    )
    options["use_fp16"] = arguments.compute_dtype == "float16"
    options["cache_text_emb"] = arguments.cache_text
    options["timestep_respacing"] = str(arguments.passes or PUBLISHED_RESPACING[name])
    model, diffusion = creation.create_model_and_diffusion(**options)
    torch.manual_seed(0)
    for key, parameter in model.named_parameters():
        randomise(key, parameter)
    model.eval()
    if options["use_fp16"]:
        model.convert_to_fp16()
    model.to(arguments.device)
    whole = len(respace.space_timesteps(1000, PUBLISHED_RESPACING[name]))
    return model, diffusion, whole


@torch.no_grad()
def randomise(key, parameter):
    """Seeded normal weights that keep the variance of their input; none zero."""
    parameter.normal_()
    if parameter.dim() >= 2 and "embedding" not in key:
        parameter.mul_(parameter[0].numel() ** -0.5)
    else:
        parameter.mul_(0.1)
    # A norm's gain is the one vector that is not a bias.
    if parameter.dim() == 1 and not key.endswith("bias"):
        parameter.add_(1)


def make_conditions(name, model, arguments, rows):
    """Captions (the second half of a guided batch is empty) and the small picture."""
    encoded = model.tokenizer.encode(PROMPT)
    full = model.tokenizer.padded_tokens_and_mask(encoded, model.text_ctx)
    empty = model.tokenizer.padded_tokens_and_mask([], model.text_ctx)
    captions = [full] * arguments.batch + [empty] * (rows - arguments.batch)
    tokens, masks = zip(*captions, strict=True)
    conditions = {
        "tokens": torch.tensor(tokens, device=arguments.device),
        "mask": torch.tensor(masks, dtype=torch.bool, device=arguments.device),
    }
    if name == "upsampler":
        shape = (rows, 3, 64, 64)
        conditions["low_res"] = torch.rand(shape, device=arguments.device) * 2 - 1
    return conditions


def guided(model):
    """Classifier-free guidance over a batch [cond; uncond]."""

    def denoise(x_t, timesteps, **conditions):
        first_half = x_t[: len(x_t) // 2]
        output = model(torch.cat([first_half] * 2), timesteps, **conditions)
        pred_eps, var_values = output.split(3, dim=1)
        cond, uncond = pred_eps.chunk(2)
        mixed = uncond + GUIDANCE_SCALE * (cond - uncond)
        return torch.cat([torch.cat([mixed] * 2), var_values], dim=1)

    return denoise


@torch.no_grad()
def count_flops(model, shape, conditions, device):
    """FLOPs of one pass as torch counts them: products and convolutions."""
    from torch.utils import flop_counter

    x_t = torch.zeros(shape, device=device)
    timesteps = torch.zeros(shape[0], dtype=torch.long, device=device)
    with flop_counter.FlopCounterMode(display=False) as counter:
        model(x_t, timesteps, **conditions)
    model.del_cache()
    return counter.get_total_flops()


def per_image(stages, arguments):
    """Seconds of all stages; of fewer passes, what a whole picture would take."""
    runs = [
        sum(
            seconds * factor
            for seconds, (_, _, factor) in zip(run, stages.values(), strict=True)
        )
        for run in zip(*(seconds for _, seconds, _ in stages.values()), strict=True)
    ]
    how = "measured" if arguments.passes is None else "extrapolated from the passes"
    return {**spread([run / arguments.batch for run in runs]), "how": how}


@torch.no_grad()
def time_calls(function, device, repeats):
    """Seconds of each of `repeats` calls, after one that is not counted."""
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def matmul_peak(device, dtype):
    """FLOP/s of the fastest of several square matrix products."""
    rates = []
    for side in MATMUL_SIDES[device]:
        matrix = torch.ones((side, side), device=device, dtype=getattr(torch, dtype))
        seconds = time_calls(lambda m=matrix: m @ m, device, 5)
        rates.append(2 * side**3 / min(seconds))
    return max(rates)


def conv_peak(device, dtype):
    """FLOP/s of a 3x3 convolution of 192 channels at 64 px."""
    batch, kind = CONV_BATCH[device], getattr(torch, dtype)
    x = torch.ones((batch, 192, 64, 64), device=device, dtype=kind)
    kernel = torch.ones((192, 192, 3, 3), device=device, dtype=kind)
    seconds = time_calls(
        lambda: torch.nn.functional.conv2d(x, kernel, padding=1), device, 5
    )
    return 2 * batch * 64**2 * 9 * 192**2 / min(seconds)


def spread(seconds):
    """Median, fastest and slowest, to four digits."""
    ends = statistics.median(seconds), min(seconds), max(seconds)
    return dict(zip(("median", "min", "max"), map(rounded, ends), strict=True))


def rounded(value):
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")


def describe(device):
    """Device and versions, under the names that glide_jax uses."""
    return {
        "platform": device,
        "device_kind": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "devices": 1,
        "cpu_cores": (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count()
        ),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()

"""What `sample`, `inpaint`, `edit` and `upsample` share: flags, models, records."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from glide_jax.cli import define, stopping
from glide_jax.errors import UserError
from glide_jax.runtime import wording

if TYPE_CHECKING:
    from glide_jax.sample.cascade import Glide
    from glide_jax.sample.prompt_tokens import Prompt

SAMPLERS = ["ddpm", "ddim", "plms", "dpm_solver_pp"]


def define_flags(values: flags.FlagValues) -> None:
    """Models, prompts, randomness, guidance, timesteps and output."""
    add = define.Define(values)
    define_models(add)
    _define_pictures(add)
    define_guidance(add)
    define_steps(add)


def define_models(add: define.Define) -> None:
    """Bundles, and how the models lie on the devices."""
    add.path("base", "bundle of the base model, e.g. runs/base/bundle")
    add.path("upsampler", "bundle of the upsampler; left out: small pictures only")
    add.path("clip", "bundle of the noised CLIP, for guidance by it and --candidates")
    define_devices(add)


def define_devices(add: define.Define) -> None:
    """How models lie on the devices."""
    add.choice(
        "compute_dtype",
        ["float32", "bfloat16", "float16"],
        "in which the models compute and keep their weights; the bundles'",
    )
    add.whole("fsdp", "devices each model is spread over, if one cannot hold it", 1)


def _define_pictures(add: define.Define) -> None:
    add.texts("prompt", "what to draw; may be given again")
    add.path("prompt_file", "instead of --prompt: a UTF-8 file with a prompt a line")
    add.numbers("blend", "weights of all --prompt in ONE picture, e.g. 0.7,0.3")
    add.whole("num_images", "pictures of each prompt", 1)
    add.whole("candidates", "drawn of each picture, of which the CLIP keeps one", 1)
    define_output(add)


def define_output(add: define.Define) -> None:
    """Where pictures go, and their randomness."""
    add.path("output", "folder for the pictures and samples.json, e.g. out/corgi")
    meaning = "add to the samples that --output holds: --first_index continues after "
    meaning += "their highest number, samples.json lists the pictures of all runs with "
    meaning += "their settings, and grid.png shows those of the last one"
    add.switch("append", meaning, False)
    add.whole("seed", "another number gives other pictures", 0)
    meaning = "index of the first picture: 17 draws picture 17 of that seed alone"
    add.whole("first_index", meaning, 0)
    meaning = "pictures drawn at once, then written; lower it if memory runs out"
    add.whole("batch_size", meaning, 16)


def define_guidance(add: define.Define) -> None:
    """What steers the models."""
    add.choice(
        "guidance_mode",
        ["none", "cfg", "clip", "cfg+clip"],
        "what steers the base model: nothing, classifier-free, CLIP or both",
        "cfg",
    )
    add.number("guidance_scale", "classifier-free, 1 is off; the bundle's if left out")
    add.numbers("guidance_interval", "timesteps between which it acts, e.g. 200,800")
    add.number("guidance_rescale", "share of its rescaling, 0 (off) to 1, e.g. 0.7")
    add.text("negative_prompt", "what classifier-free guidance is to steer away from")
    add.number("clip_guidance_scale", "CLIP, 0 is off; the bundle's if left out")
    add.numbers("clip_guidance_interval", "timesteps between which it acts")
    add.number("threshold_quantile", "dynamic thresholding, e.g. 0.995; left out: clip")


def define_steps(add: define.Define) -> None:
    """Samplers and timesteps."""
    add.choice("sampler", SAMPLERS, "of the base model; the bundle's")
    add.text("respacing", "timesteps of the base model, e.g. 150, fast27, lambda20")
    add.number("eta", "fresh noise in the base model's ddim steps, 0 to 1, e.g. 0.5")
    define_upsampler_steps(add)


def define_upsampler_steps(add: define.Define) -> None:
    """Sampler and timesteps of the upsampler."""
    add.choice("upsampler_sampler", SAMPLERS, "of the upsampler; the bundle's")
    add.text("upsampler_respacing", "timesteps of the upsampler, e.g. fast27")
    add.number("upsampler_eta", "fresh noise in the upsampler's ddim steps, 0 to 1")
    meaning = "hold the enlarged picture to the small one's colours; the bundle's"
    add.switch("match_low_res", meaning)


def read_prompts(values: flags.FlagValues) -> list[Prompt]:
    """The prompts, or with --blend the one prompt made of them.

    Raises:
      UserError: None given, given twice over, a file that cannot be read, or another
          number of weights.
    """
    if bool(values.prompt) == bool(values.prompt_file):
        raise UserError('give either --prompt="..." or --prompt_file=FILE')
    if values.num_images < 1:
        raise UserError(f"--num_images={values.num_images}; give at least 1")
    prompts = values.prompt or read_lines(values.prompt_file)
    if values.blend is None:
        return prompts
    weights = read_numbers(values, "blend")
    if len(weights) != len(prompts) or len(prompts) != len(set(prompts)):
        raise UserError(
            f"--blend has {wording.counted(len(weights), 'weight')} for"
            f" {wording.counted(len(prompts), 'prompt')}; give one "
            "for each, and no prompt twice"
        )
    return [dict(zip(prompts, weights, strict=True))]


def read_numbers(values: flags.FlagValues, name: str) -> list[float]:
    """The numbers of a list flag.

    Raises:
      UserError: Something in it is no number.
    """
    try:
        found = [float(part) for part in values[name].value]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        given = ",".join(values[name].value)
        raise UserError(f"--{name}={given} is no list of numbers; write e.g. 0.7,0.3")
    return found


def output_of(values: flags.FlagValues) -> str:
    """The folder that --output names.

    Raises:
      UserError: None is named.
    """
    if not values.output:
        raise UserError("--output is missing, e.g. --output=out/corgi")
    return values.output


def read_options(values: flags.FlagValues) -> dict[str, Any]:
    """The options of `Glide` that flags of this verb set."""
    from glide_jax.sample import settings

    options = {}
    for field in dataclasses.fields(settings.SampleOptions):
        if field.name not in values or values[field.name].value is None:
            continue
        options[field.name] = values[field.name].value
        if field.name.endswith("_interval"):
            options[field.name] = tuple(read_numbers(values, field.name))
    return options


def load_models(values: flags.FlagValues) -> Glide:
    """The models that the flags name, found to belong together."""
    from glide_jax.sample import cascade

    if not values.base:
        raise UserError("--base is missing, e.g. --base=runs/base/bundle")
    return cascade.Glide.load(
        values.base,
        values.upsampler,
        values.clip,
        fsdp=values.fsdp,
        compute_dtype=values.compute_dtype,
    )


@contextlib.contextmanager
def progress_bar(
    total: int,
    description: str = "pictures drawn",
    *,
    initial: int = 0,
    kept: str | Callable[[], str] = stopping.NOTHING_KEPT,
) -> Iterator[Callable[[float | int], None]]:
    """A bar that appears when work begins, so that a refusal stays one line.

    Work that reports its progress ends after a signal; see `stopping.on_signal` for
    `kept`, and `progress.ProgressBar` for the other arguments.
    """
    from glide_jax.runtime import progress

    with stopping.on_signal(kept) as poll, contextlib.ExitStack() as stack:
        bars: list[progress.ProgressBar] = []

        def update(finished: float | int) -> None:
            if not bars:
                bar = progress.ProgressBar(total, description, initial=initial)
                bars.append(stack.enter_context(bar))
            bars[0].update(finished)
            poll()

        yield update


def file_record(path: str) -> dict[str, str]:
    """Name and digest of an input file."""
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    return {"file": path, "sha256": digest}


def name_bundles(models: Glide) -> dict[str, dict[str, str]]:
    """Folder and digest of each model's bundle."""
    from glide_jax.sample import restore

    return {
        name: {
            "folder": str(model.folder),
            "digest": restore.bundle_digest(model.folder),
        }
        for name, model in models.models.items()
    }


def read_lines(path: str) -> list[str]:
    """The prompts of a --prompt_file, one a line, without spaces at the ends.

    Empty lines are no prompts; how many there are is logged.

    Raises:
      UserError: It cannot be read, or holds none.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompt_file={path} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(
            f"--prompt_file={path} cannot be read: {error.strerror}"
        ) from error
    lines = [line.strip() for line in wording.split_lines(text)]
    prompts = [line for line in lines if line]
    if not prompts:
        raise UserError(f"--prompt_file={path} holds no prompt; write one a line")
    empty = len(lines) - len(prompts)
    passed_over = f" ({wording.counted(empty, 'empty line')} passed over)"
    logging.info(
        "--prompt_file=%s: %s%s",
        path,
        wording.counted(len(prompts), "prompt"),
        passed_over if empty else "",
    )
    return prompts

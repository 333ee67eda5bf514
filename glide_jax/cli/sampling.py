"""Flags, models and records of `sample`, `inpaint`, `edit` and `upsample`."""

from __future__ import annotations

import contextlib
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


def define_flags(values: flags.FlagValues) -> None:
    """Defines models, prompts, randomness, guidance, timesteps and output."""
    add = define.Define(values)
    define_models(add)
    _define_pictures(add)
    for group in ("guidance", "steps", "upsampler"):
        define_options(add, group)


def define_models(add: define.Define) -> None:
    """Defines the flags of the bundles and of the placement of models on devices."""
    add.path(
        "base",
        "bundle of the base model, e.g. runs/base/bundle; left out: the models that "
        "come with glide_jax",
    )
    add.path("upsampler", "bundle of the upsampler; left out: small pictures only")
    add.path("clip", "bundle of the noised CLIP, for guidance by it and --candidates")
    define_devices(add)


def define_devices(add: define.Define) -> None:
    """Defines the flags of the placement of models on devices."""
    add.choice(
        "compute_dtype",
        ["float32", "bfloat16", "float16"],
        "dtype of computation and weights in memory; default: the bundles'",
    )
    add.whole("fsdp", "number of devices that hold one model, if one cannot", 1)


def _define_pictures(add: define.Define) -> None:
    add.texts("prompt", "caption of the picture; may be repeated")
    add.path("prompt_file", "instead of --prompt: a UTF-8 file with a prompt per line")
    add.numbers("blend", "weights of all --prompt in ONE picture, e.g. 0.7,0.3")
    add.whole("num_images", "pictures of each prompt", 1)
    define_options(add, "pictures")
    define_output(add)


def define_output(add: define.Define) -> None:
    """Defines where pictures go, and their randomness."""
    add.path("output", "folder for the pictures and samples.json, e.g. out/corgi")
    meaning = "add to the samples in --output: --first_index continues after the "
    meaning += "highest number, samples.json lists the pictures of all runs with their "
    meaning += "settings, and grid.png shows those of the last run"
    add.switch("append", meaning, False)
    define_options(add, "output")


def define_options(add: define.Define, group: str) -> None:
    """Defines the flags of one group of `options.SamplingOptions`."""
    from glide_jax.sample import options

    for name in options.names(group=group):
        about = options.about(name)
        default = getattr(options.SamplingOptions(), name)
        if about.kind == "whole":
            add.whole(name, about.help, default, least=1 if about.least == 1 else None)
        elif about.kind == "choice":
            add.choice(name, list(about.choices), about.help, default)
        elif about.kind == "interval":
            add.numbers(name, about.help)
        else:  # what is left out takes the default of the option
            kinds = {"number": add.number, "switch": add.switch, "text": add.text}
            kinds[about.kind](name, about.help)


def refuse_arguments(arguments: list[str]) -> None:
    """Raises UserError for an argument that is not a flag."""
    if arguments:
        raise UserError(
            f"{arguments[0]!r} is not a flag; give prompts as --prompt={arguments[0]!r}"
        )


def read_prompts(values: flags.FlagValues) -> list[Prompt]:
    """Reads the prompts, each --num_images times; with --blend one prompt of all.

    Raises:
      UserError: no prompt, both flags, a file that cannot be read, or another number
        of weights.
    """
    if bool(values.prompt) == bool(values.prompt_file):
        raise UserError('give either --prompt="..." or --prompt_file=FILE')
    if values.num_images < 1:
        raise UserError(f"--num_images={values.num_images}; give at least 1")
    prompts: list[str] = values.prompt or read_lines(values.prompt_file)
    if values.blend is None:
        return [prompt for prompt in prompts for _ in range(values.num_images)]
    weights = read_numbers(values, "blend")
    if len(weights) != len(prompts) or len(prompts) != len(set(prompts)):
        raise UserError(
            f"--blend has {wording.counted(len(weights), 'weight')} for"
            f" {wording.counted(len(prompts), 'prompt')}; give one "
            "for each, and no prompt twice"
        )
    return [dict(zip(prompts, weights, strict=True))] * values.num_images


def read_numbers(values: flags.FlagValues, name: str) -> list[float]:
    """Reads the numbers of a list flag.

    Raises:
      UserError: an item is not a finite number.
    """
    parts: list[str] = values[name].value or []
    try:
        found = [float(part) for part in parts]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        given = ",".join(parts)
        raise UserError(f"--{name}={given} is not a list of numbers; give e.g. 0.7,0.3")
    return found


def output_of(values: flags.FlagValues) -> str:
    """Returns the folder that --output names.

    Raises:
      UserError: the flag is missing.
    """
    if not values.output:
        raise UserError("--output is missing, e.g. --output=out/corgi")
    return values.output


def read_options(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the options of `Glide` that the flags of this verb set."""
    from glide_jax.sample import options

    found = {}
    for name in options.names():
        if name not in values or values[name].value is None:
            continue
        found[name] = values[name].value
        if options.about(name).kind == "interval":
            found[name] = tuple(read_numbers(values, name))
    return found


def load_models(values: flags.FlagValues) -> Glide:
    """Loads the models that the flags name, and checks that they fit together.

    Without --base they are those that come with the package.

    Raises:
      UserError: --upsampler or --clip without --base, or `Glide.load` raises.
    """
    from glide_jax.sample import cascade, shipped

    folders = {name: values[name].value for name in ("base", "upsampler", "clip")}
    if not values.base:
        for name in ("upsampler", "clip"):
            if folders[name]:
                raise UserError(
                    f"--{name}={folders[name]} needs --base; give the base model, or "
                    "neither of them for the models that come with glide_jax"
                )
        folders = shipped.folders()
        print(f"models: those of glide_jax, {shipped.FOLDER}; --base names others")
    return cascade.Glide.load(
        **folders,
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
    enabled: bool = True,
) -> Iterator[Callable[[float | int], None]]:
    """Yields the update of a bar that is shown on the first update.

    A signal ends the work at the next update; see `stopping.on_signal` for `kept`, and
    `progress.ProgressBar` for the other arguments.
    """
    from glide_jax.runtime import progress

    with stopping.on_signal(kept) as poll, contextlib.ExitStack() as stack:
        bars: list[progress.ProgressBar] = []

        def update(finished: float | int) -> None:
            if not bars:
                bar = progress.ProgressBar(
                    total, description, initial=initial, enabled=enabled
                )
                bars.append(stack.enter_context(bar))
            bars[0].update(finished)
            poll()

        yield update


def file_record(path: str) -> dict[str, str]:
    """Returns the name and the digest of an input file."""
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    return {"file": path, "sha256": digest}


def name_bundles(models: Glide) -> dict[str, dict[str, str]]:
    """Returns the folder and the digest of each model's bundle."""
    from glide_jax.sample import restore

    return {
        name: {
            "folder": str(model.folder),
            "digest": restore.bundle_digest(model.folder),
        }
        for name, model in models.models.items()
    }


def read_lines(path: str) -> list[str]:
    """Reads the prompts of a --prompt_file, one per line, stripped of spaces.

    Skips empty lines and logs their number.

    Raises:
      UserError: the file cannot be read, or has no prompt.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompt_file={path} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(
            f"--prompt_file={path} cannot be read ({error.strerror}); give a text file"
        ) from error
    lines = [line.strip() for line in wording.split_lines(text)]
    prompts = [line for line in lines if line]
    if not prompts:
        raise UserError(f"--prompt_file={path} has no prompt; write one per line")
    empty = len(lines) - len(prompts)
    skipped = f" ({wording.counted(empty, 'empty line')} skipped)" if empty else ""
    count = wording.counted(len(prompts), "prompt")
    logging.info("--prompt_file=%s: %s%s", path, count, skipped)
    return prompts

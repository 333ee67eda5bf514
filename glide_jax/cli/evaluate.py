"""Evaluates models, or pictures that exist already.

    glide evaluate --base=runs/cfg/bundle --captions_of=shapes:quickstart \\
        --features=clip:runs/clip/bundle --reference=ref.npz --num_images=1000 \\
        --guidance_scale=1.5 --output=runs/eval/scale_1.5
    glide evaluate --images=out/samples.npz --reference=VIRTUAL_imagenet256.npz \\
        --features=inception_tf1:inception.pt --output=runs/eval/theirs
    glide evaluate --base=runs/base/bundle --loss_source=shapes:quickstart \\
        --output=runs/eval/losses
    glide evaluate --curves=runs/curves --output=curves.png

Pictures are drawn, or read by --images from a .npz file (arr_0), a folder or a data
source, in batches of which only the features are kept. Without --metrics, every metric
is computed that the reference, the features, the CLIP and the captions allow. Values of
other features than inception's carry their name: noised_clip_fid, inception_tf1_fid of
pictures resized as in OpenAI's evaluator, and efficientnet_lite0_fd of a classifier of
photographs, which guides nothing. --loss_source adds the validation loss and bits per
dimension of --base by quarter of the noise; without pictures --base may be an
upsampler.

A signal ends the command with exit code 42 after the current batch, and the same
command continues from there; unfinished losses are measured again. Other settings in
the same folder are refused, except those of the comparison (--reference, --metrics,
--pr_distances).

The paper's protocol (GLIDE, appendix A.2; zero-shot FID 12.24): 30,000 captions of the
validation set, 250 steps, scale 1.5, against the whole set at 256 px from
`glide evaluate reference`, by the features of the authors' evaluator:

    glide evaluate --base=glide_base --upsampler=glide_up --respacing=250 \\
        --guidance_scale=1.5 --captions_of="webdataset:coco/val2014-*.tar" \\
        --num_images=30000 --features=inception_tf1:inception.pt \\
        --reference=coco256.npz --output=runs/eval/paper
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import (
    define,
    processes,
    sampling,
    stopping,
)
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.eval import picture_sets, runner
    from glide_jax.sample.cascade import Glide

NUM_IMAGES = 1000  # drawn by default


def define_flags(values: flags.FlagValues) -> None:
    """Defines flags for models, sampling, pictures and the comparison."""
    from glide_jax.eval import metrics

    add = define.Define(values)
    sampling.define_models(add)
    for group in ("guidance", "steps", "upsampler"):
        sampling.define_options(add, group)
    meaning = "draw the captions of a data source's validation split, spread over it"
    add.text("captions_of", meaning)
    meaning = "instead: a UTF-8 file with one caption on a line, used in turn; with "
    meaning += "--images: one for each picture, in the order of the pictures"
    add.path("prompt_file", meaning)
    meaning = f"pictures to draw; {NUM_IMAGES} by default; with "
    meaning += "--images=SOURCE: records to read, all by default"
    add.whole("num_images", meaning, least=2)
    meaning = "pictures drawn for each result, of which the CLIP keeps the best"
    add.whole("candidates", meaning, 1)
    add.whole("seed", "seed of the pictures", 0)
    add.whole("first_index", "index of the first picture", 0)
    add.whole("batch_size", "pictures at once; changes no metric", 32, least=1)
    meaning = "instead of drawing: a .npz file, a data source, or a folder, whose "
    meaning += "pictures are read in natural order (2.png before 10.png) or in the "
    meaning += "order of its samples.json"
    add.path_or_source("images", meaning)
    add.whole("px", "side at which --images reads a data source", least=8)
    meaning = "extractor: inception_tf1:FILE, inception:FILE, efficientnet_lite0 or "
    meaning += "clip:BUNDLE"
    add.kind_and_path("features", meaning)
    add.path("reference", "file of real pictures from glide evaluate reference")
    meaning = "bundle of the noised CLIP that encodes captions; by default that of "
    add.path("judge", f"{meaning}--features=clip:, else --clip")
    known = "; ".join(f"{name}: {m.meaning}" for name, m in metrics.METRICS.items())
    meaning = f"metrics to compute; by default all that are possible. {known}"
    flags.DEFINE_list("metrics", [], meaning, flag_values=values)
    flags.DEFINE_enum(
        "pr_distances",
        metrics.EXACT,
        metrics.PR_DISTANCES,
        "distances of precision and recall; float16 comes close to the numbers of "
        "OpenAI's evaluator, as precision_float16 and recall_float16",
        flag_values=values,
    )
    add.whole("save_images", "pictures to write to OUTPUT/samples.npz", 0, least=0)
    add.text("loss_source", "data source for validation losses of --base")
    add.whole("num_losses", "records of --loss_source to read", 1024, least=1)
    meaning = "a guidance sweep's folder or rows (.jsonl), to plot as OUTPUT, a PNG"
    add.path("curves", meaning)
    add.path("output", "folder for result.json, samples.png and features")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Evaluates pictures, losses or both, and prints a line for each value."""
    _check_flags(values, arguments)
    if values.curves:
        from glide_jax.sweep import guidance_plots

        for path in guidance_plots.write(pathlib.Path(values.curves), values.output):
            print(path)
        return 0
    folder = sampling.output_of(values)
    with (
        processes.joined(values),
        stopping.on_signal(stopping.ALL_KEPT) as poll,
        dedupe_warnings(),
        processes.shared_folder(folder) as output,
    ):
        _evaluate(values, output, poll)
    return 0


def _evaluate(
    values: flags.FlagValues, output: pathlib.Path, poll: stopping.Poll
) -> None:
    """Evaluates into a folder; only process 0 has figures, which it prints."""
    from glide_jax.eval import metrics, runner
    from glide_jax.parallel import device_mesh, sharing
    from glide_jax.sample import restore

    models = sampling.load_models(values) if _is_drawing(values) else None
    mesh = device_mesh.make_local_mesh(values.fsdp)
    results, settings = metrics.Results({}, []), {}
    pictures = _open_pictures(values, models)
    if pictures is not None:
        results, settings = runner.evaluate_pictures(
            pictures,
            _request(values),
            output,
            mesh=mesh,
            on_batch=lambda count: poll(),
        )
    if not sharing.is_first():
        return
    if values.loss_source:
        # Without pictures the model may be an upsampler.
        model = models.base if models else None
        model = model or restore.load_bundle(
            values.base, compute_dtype=values.compute_dtype, mesh=mesh
        )
        losses, settings["losses"] = runner.evaluate_losses(
            model,
            values.loss_source,
            values.num_losses,
            output,
            batch_size=values.batch_size,
            mesh=mesh,
            on_batch=lambda count: poll(),
        )
        results.metrics.update(losses)
    given = [values[name].serialize() for name in values if values[name].present]
    command = shlex.join(["glide", "evaluate", *given])
    runner.write_result(output, results, settings, command)
    for line in results.warnings:
        logging.warning(line)
    for name, value in results.metrics.items():
        print(f"{name:<36} {value:.6g}")
    print(f"result.json is in {output}")


@contextlib.contextmanager
def dedupe_warnings() -> Iterator[None]:
    """Logs only the first of warnings that differ in their details."""
    seen = set()

    def is_new(record: logging.LogRecord) -> bool:
        # The first argument names the subject; a mapping counts as a whole.
        arguments = record.args or (None,)
        named = isinstance(arguments, Mapping)
        kind = (record.msg, str(arguments) if named else arguments[0])
        is_first = record.levelno != logging.WARNING or kind not in seen
        seen.add(kind)
        return is_first

    root = logging.getLogger()
    root.addFilter(is_new)
    try:
        yield
    finally:
        root.removeFilter(is_new)


def _check_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag; see glide evaluate --help")
    if values.curves:
        given = [name for name in values if values[name].present]
        others = [name for name in given if name not in ("curves", "output")]
        if others:
            raise UserError(
                f"--curves plots finished runs and reads no --{others[0]}; leave it out"
            )
        return
    if values.captions_of and values.prompt_file:
        raise UserError(
            "--captions_of and --prompt_file are given; give only one of them"
        )
    if values.images and values.captions_of:
        raise UserError(
            "--captions_of names captions to draw, and --images are drawn already; "
            "give their captions by --prompt_file, or let --images name the source"
        )
    if values.images and values.base and not values.loss_source:
        raise UserError("--images are drawn already; leave out --base")
    if values.base and not (_is_drawing(values) or values.images or values.loss_source):
        raise UserError(
            "--base has nothing to draw; give --captions_of=SOURCE, "
            "--prompt_file=FILE, or --loss_source for losses alone"
        )
    if not values.base and (values.loss_source or not values.images):
        raise UserError(
            "--base is missing; give e.g. --base=runs/base/bundle, or existing "
            "pictures by --images"
        )


def _is_drawing(values: flags.FlagValues) -> bool:
    """Returns whether pictures are drawn, rather than read."""
    has_captions = bool(values.captions_of or values.prompt_file)
    return bool(values.base and has_captions and not values.images)


def _open_pictures(
    values: flags.FlagValues, models: Glide | None
) -> picture_sets.PictureSet | None:
    """Returns the pictures of --images or those to draw; None without either."""
    from glide_jax.eval import picture_sets

    prompts = None
    if values.prompt_file:
        prompts = sampling.read_lines(values.prompt_file)
    if values.images:
        return picture_sets.open_saved(
            values.images, prompts, px=values.px, most=values.num_images
        )
    count = values.num_images or NUM_IMAGES
    if values.captions_of:
        prompts = picture_sets.captions_of(values.captions_of, count)
    elif prompts is None:
        return None
    assert models is not None
    prompts = [prompts[i % len(prompts)] for i in range(count)]
    bundles = {
        name: bundle["digest"][:12]
        for name, bundle in sampling.name_bundles(models).items()
    }
    return picture_sets.Drawn(models, prompts, sampling.read_options(values), bundles)


def _request(values: flags.FlagValues) -> runner.Request:
    """Returns how the pictures are evaluated."""
    from glide_jax.eval import runner

    features = values.features or ""
    return runner.Request(
        features=features,
        clip=runner.clip_bundle(features, values.judge or "", values.clip or ""),
        reference=values.reference or "",
        names=values.metrics,
        pr_distances=values.pr_distances,
        batch_size=values.batch_size,
        save_images=values.save_images,
    )

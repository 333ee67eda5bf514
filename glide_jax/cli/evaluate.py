"""Figures of models, or of pictures that lie there.

    glide evaluate --base=runs/cfg/bundle --captions_of=shapes:quickstart \\
        --features=clip:runs/clip/bundle --reference=ref.npz --num_images=1000 \\
        --guidance_scale=1.5 --output=runs/eval/scale_1.5
    glide evaluate --images=out/samples.npz --reference=VIRTUAL_imagenet256.npz \\
        --features=inception_tf1:inception.pt --output=runs/eval/theirs
    glide evaluate --base=runs/base/bundle --loss_source=shapes:quickstart \\
        --output=runs/eval/losses
    glide evaluate --curves=runs/curves --output=curves.png

Pictures are drawn, or read by --images from a .npz file (arr_0), a folder or a data
source, and looked at a few at a time; of each only its features are kept. All figures
are made that the reference, the features, the CLIP and the captions allow, or those of
--metrics: fid, sfid, kid, precision_recall, inception_score, clip_score (with retrieval
accuracy). Figures from other features than inception's are named so: noised_clip_fid,
and inception_tf1_fid of pictures resized as OpenAI's evaluator does it. --loss_source
adds validation loss and bits per dimension of --base by quarter of the noise; where
nothing is drawn this may be an upsampler as well.

A signal ends it with exit code 42 after the batch under way; the same command goes on
from there, but for losses, which begin anew unless they were finished. Other settings
in the same folder are refused, but for what the pictures are compared with
(--reference, --metrics, --pr_distances).

The paper's protocol (GLIDE, appendix A.2; zero-shot FID 12.24): 30,000 captions of the
validation set, 250 steps, scale 1.5, against the whole set at 256 px as
`glide evaluate reference` shows, by the features of its authors' evaluator:

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
from typing import TYPE_CHECKING, Any

from absl import flags

from glide_jax.cli import (
    curves,
    define,
    evaluate_inputs,
    output_folders,
    sampling,
    stopping,
)
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.eval import (
        feature_cache,
        feature_passes,
        picture_sets,
        reference_files,
    )
    from glide_jax.eval import metrics as metrics_lib
    from glide_jax.sample.cascade import Glide


def define_flags(values: flags.FlagValues) -> None:
    """Models and how they draw, pictures, and what they are compared with."""
    add = define.Define(values)
    sampling.define_models(add)
    for group in ("guidance", "steps", "upsampler"):
        sampling.define_options(add, group)
    meaning = "draw the captions of a data source's validation split, spread over it"
    add.text("captions_of", meaning)
    meaning = "instead: a UTF-8 file with a caption a line, in turn; of --images: one "
    meaning += "for each picture, in the order of the pictures"
    add.path("prompt_file", meaning)
    meaning = f"pictures drawn in all, {evaluate_inputs.NUM_IMAGES} if left out; "
    meaning += "of --images=SOURCE: taken of it, all if left out"
    add.whole("num_images", meaning, least=2)
    add.whole("candidates", "drawn of each picture, of which the CLIP keeps one", 1)
    add.whole("seed", "another number gives other pictures", 0)
    add.whole("first_index", "index of the first picture", 0)
    add.whole("batch_size", "pictures at once; changes no figure", 32, least=1)
    meaning = "instead of drawing: a .npz file, a data source, or a folder, whose "
    meaning += "pictures are in natural order (2.png before 10.png) or in the order of "
    meaning += "its samples.json"
    add.path_or_source("images", meaning)
    add.whole("px", "side at which --images reads a data source", least=8)
    add.kind_and_path(
        "features", "inception_tf1:FILE, inception:FILE or clip:BUNDLE to compare by"
    )
    add.path("reference", "file of real pictures, by glide evaluate reference")
    meaning = "bundle of the noised CLIP that reads captions; that of --features=clip:"
    add.path("judge", f"{meaning}, else --clip")
    flags.DEFINE_list(
        "metrics", [], "figures to make; left out: all that can be", flag_values=values
    )
    flags.DEFINE_enum(
        "pr_distances",
        "exact",
        ["exact", "float16"],
        "distances of precision and recall; float16 gives the numbers of OpenAI's "
        "evaluator, as precision_float16 and recall_float16",
        flag_values=values,
    )
    add.whole("save_images", "pictures kept in OUTPUT/samples.npz", 0, least=0)
    add.text("loss_source", "data source for validation losses of --base")
    add.whole("num_losses", "records of --loss_source that are taken", 1024, least=1)
    meaning = "a guidance sweep's folder or rows (.jsonl), to draw as OUTPUT, a PNG"
    add.path("curves", meaning)
    add.path("output", "folder for result.json, samples.png and what is kept")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Judges pictures, losses or both; prints a line for each figure."""
    _check_flags(values, arguments)
    if values.curves:
        return curves.run(values.curves, values.output)
    with (
        stopping.on_signal(stopping.ALL_KEPT) as poll,
        dedupe_warnings(),
        output_folders.made_folder(sampling.output_of(values)) as output,
        output_folders.alone(output),
    ):
        is_drawing = evaluate_inputs.is_drawing(values)
        models = sampling.load_models(values) if is_drawing else None
        found, settings = _judge_pictures(values, models, output, poll)
        if values.loss_source:
            metrics, asked = _measure_losses(values, models, output, poll)
            found.metrics.update(metrics)
            settings["losses"] = asked
        _finish(values, output, found, settings)
    return 0


@contextlib.contextmanager
def dedupe_warnings() -> Iterator[None]:
    """Of warnings that differ in their details only, e.g. captions cut, the first."""
    seen = set()

    def is_new(record: logging.LogRecord) -> bool:
        # What the message is of; one by names is told by all of them.
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
        raise UserError(f"{arguments[0]!r} is no flag; see glide evaluate --help")
    if values.curves:
        return curves.check_alone(values)
    if values.captions_of and values.prompt_file:
        raise UserError("--captions_of takes the place of --prompt_file; give one")
    if values.images and values.captions_of:
        raise UserError(
            "--captions_of is what to draw, and --images are drawn already; give "
            "their captions by --prompt_file, or let --images name the source"
        )
    if values.images and values.base and not values.loss_source:
        raise UserError("--images are drawn already; leave out --base")
    if values.base and not (
        evaluate_inputs.is_drawing(values) or values.images or values.loss_source
    ):
        raise UserError(
            "nothing to draw; give --captions_of=SOURCE or --prompt_file=FILE, or "
            "--loss_source for losses alone"
        )
    if not values.base and (values.loss_source or not values.images):
        raise UserError(
            "--base is missing, e.g. --base=runs/base/bundle; or judge pictures that "
            "lie there by --images"
        )


def _judge_pictures(
    values: flags.FlagValues,
    models: Glide | None,
    output: pathlib.Path,
    poll: stopping.Poll,
) -> tuple[metrics_lib.Found, dict[str, Any]]:
    """Figures of the pictures, none where losses are all that is asked for."""
    from glide_jax.eval import clip_score, extractors, feature_passes, runner
    from glide_jax.eval import metrics as metrics_lib
    from glide_jax.sample import restore

    shown = evaluate_inputs.open_pictures(values, models)
    if shown is None:
        return metrics_lib.Found({}, []), {}
    mesh = evaluate_inputs.make_mesh(values.fsdp)
    classes = evaluate_inputs.classes_of(values, shown)
    extractor = clip = None
    if values.features:
        extractor = extractors.load(values.features, mesh=mesh, classes=classes)
    if shown.has_captions and (bundle := evaluate_inputs.clip_bundle(values)):
        model = restore.load_bundle(bundle, compute_dtype="float32", mesh=mesh)
        clip = clip_score.ClipJudge(model, mesh=mesh)
    reference = evaluate_inputs.open_reference(values, extractor, shown.px)
    have = metrics_lib.available(
        extractor,
        reference,
        has_clip=clip is not None,
        has_captions=shown.has_captions,
        batch_size=min(values.batch_size, shown.count),
    )
    names = metrics_lib.choose(values.metrics, have)
    if not names:
        raise UserError(
            "no figure can be made; give --features with --reference, or --judge"
        )
    if values.pr_distances != metrics_lib.EXACT and "precision_recall" not in names:
        raise UserError(
            f"--pr_distances={values.pr_distances} is of precision_recall, which is "
            "not among the figures; give --features and a --reference that holds the "
            "features of its pictures, or leave the flag out"
        )
    kept = runner.open_parts(
        output,
        shown,
        extractor,
        clip,
        classes=classes,
        save_images=values.save_images,
    )
    judges = feature_passes.Judges(
        extractor, clip, max(runner.GRID, values.save_images)
    )
    found = _watched(values, shown, judges, kept, names, reference, poll)
    runner.write_pictures(output, kept, values.save_images)
    settings = {
        **kept.settings,
        "metrics": names,
        "reference": None if reference is None else reference.record,
    }
    # Rows without this setting, older ones among them, have exact distances.
    if values.pr_distances != metrics_lib.EXACT and "precision_recall" in names:
        settings["pr_distances"] = values.pr_distances
    return found, settings


def _watched(
    values: flags.FlagValues,
    shown: picture_sets.PictureSet,
    judges: feature_passes.Judges,
    kept: feature_cache.FeatureCache,
    names: list[str],
    reference: reference_files.Reference | None,
    poll: stopping.Poll,
) -> metrics_lib.Found:
    """The figures, with a bar that begins where an earlier start ended."""
    from glide_jax.eval import runner
    from glide_jax.runtime import progress

    with progress.ProgressBar(
        shown.count, "pictures judged", initial=kept.next_index
    ) as bar:

        def on_part(count: int) -> None:
            bar.update(count)
            poll()

        return runner.evaluate(
            shown,
            judges,
            kept,
            names,
            reference=reference,
            batch_size=values.batch_size,
            on_part=on_part,
            pr_distances=values.pr_distances,
        )


def _measure_losses(
    values: flags.FlagValues,
    models: Glide | None,
    output: pathlib.Path,
    poll: stopping.Poll,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Losses of --base, measured once in a folder."""
    from glide_jax.data import sources
    from glide_jax.eval import losses
    from glide_jax.runtime import files, progress
    from glide_jax.sample import restore

    mesh = evaluate_inputs.make_mesh(values.fsdp)
    model = models.base if models else None
    # Where nothing is drawn it may be an upsampler as well.
    model = model or restore.load_bundle(
        values.base, compute_dtype=values.compute_dtype, mesh=mesh
    )
    asked = {
        "source": values.loss_source,
        "count": values.num_losses,
        "bundle": restore.bundle_digest(model.folder)[:12],
        "compute_dtype": model.config.model.compute_dtype,
    }
    path = output / "losses.json"
    if path.exists():
        before = files.read(path)
        if before["settings"] == asked:
            return before["metrics"], asked
    source = sources.open_source(values.loss_source, split="validation")
    count = min(values.num_losses, len(source))
    with progress.ProgressBar(count, "losses measured") as bar:

        def on_batch(finished: int) -> None:
            bar.update(finished)
            poll()

        metrics = losses.measure(
            model,
            source,
            count,
            batch_size=values.batch_size,
            mesh=mesh,
            on_batch=on_batch,
        )
    files.write(path, {"settings": asked, "metrics": metrics})
    return metrics, asked


def _finish(
    values: flags.FlagValues,
    output: pathlib.Path,
    found: metrics_lib.Found,
    settings: dict[str, Any],
) -> None:
    from glide_jax.eval import runner

    given = [values[name].serialize() for name in values if values[name].present]
    command = shlex.join(["glide", "evaluate", *given])
    runner.write_result(output, found, settings, command)
    for line in found.warnings:
        logging.warning(line)
    for name, value in found.metrics.items():
        print(f"{name:<36} {value:.6g}")
    print(f"result.json is in {output}")

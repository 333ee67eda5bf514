"""Reads the flags of `glide evaluate`: the pictures and the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import sampling

if TYPE_CHECKING:
    from glide_jax.eval import picture_sets, runner
    from glide_jax.sample.cascade import Glide

NUM_IMAGES = 1000  # drawn by default


def is_drawing(values: flags.FlagValues) -> bool:
    """Returns whether pictures are drawn, rather than read."""
    has_captions = bool(values.captions_of or values.prompt_file)
    return bool(values.base and has_captions and not values.images)


def open_pictures(
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


def request(values: flags.FlagValues) -> runner.Request:
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

"""What `glide evaluate` is asked to judge: its flags as pictures, models and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import sampling
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from glide_jax.eval import extractors, picture_sets, reference_files
    from glide_jax.sample.cascade import Glide

NUM_IMAGES = 1000  # drawn, unless told otherwise
# Classes of a CLIP's Inception Score: distinct captions, no more.
MAX_CLASSES = 1000


def is_drawing(values: flags.FlagValues) -> bool:
    """Whether pictures are to be drawn, not read."""
    has_captions = bool(values.captions_of or values.prompt_file)
    return bool(values.base and has_captions and not values.images)


def open_pictures(
    values: flags.FlagValues, models: Glide | None
) -> picture_sets.PictureSet | None:
    """Those of --images, or those to be drawn; None where there are neither."""
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
    prompts = [prompts[i % len(prompts)] for i in range(count)]
    bundles = {
        name: found["digest"][:12]
        for name, found in sampling.name_bundles(models).items()
    }
    return picture_sets.Drawn(models, prompts, sampling.read_options(values), bundles)


def open_reference(
    values: flags.FlagValues, extractor: extractors.Extractor | None, px: int
) -> reference_files.Reference | None:
    """That of --reference, found to fit the pictures and their features."""
    from glide_jax.eval import reference_files

    if not values.reference:
        return None
    if extractor is None:
        raise UserError(
            f"--reference={values.reference} is compared by features; give --features"
        )
    return reference_files.read(values.reference, extractor, px)


def classes_of(values: flags.FlagValues, shown: picture_sets.PictureSet) -> list[str]:
    """Of a CLIP's Inception Score: the distinct captions, unless there is but one.

    Of more than MAX_CLASSES some, spread evenly over the alphabet.
    """
    if not (values.features or "").startswith("clip:"):
        return []
    every = sorted(set(shown.captions or []))
    count = min(len(every), MAX_CLASSES)
    found = [every[i * len(every) // count] for i in range(count)]
    return found if len(found) > 1 else []


def clip_bundle(values: flags.FlagValues) -> str | None:
    """Of the CLIP that reads captions: --judge, or another that was named."""
    kind, _, place = (values.features or "").partition(":")
    return values.judge or (place if kind == "clip" else None) or values.clip


def make_mesh(fsdp: int = 1) -> Mesh | None:
    """All devices of this machine, as `Glide.load` takes them."""
    import jax

    from glide_jax.config import defaults
    from glide_jax.parallel import device_mesh

    if jax.device_count() == 1:
        return None
    return device_mesh.make_mesh(defaults.MeshConfig(data=-1, fsdp=fsdp))

"""Pictures from prompts.

    glide sample --base=runs/cfg/bundle --upsampler=runs/up/bundle \\
        --prompt="a large red circle on a black background" --output=out/circle
    glide sample --base=runs/cfg/bundle --clip=runs/clip/bundle --num_images=4 \\
        --guidance_mode=cfg+clip --guidance_scale=3 --prompt_file=prompts.txt \\
        --output=out/guided
    glide sample --base=runs/cfg/bundle --upsampler=runs/up/bundle \\
        --captions_of=webdataset:runs/icons/val_pairs --output=out/held_out

With --captions_of, beside.png shows each drawn picture beside the real one.

Pictures are written batch by batch. The same command continues a run that was stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import drawing, sampling
from glide_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from glide_jax.config.defaults import Config
    from glide_jax.sample.cascade import Glide
    from glide_jax.sample.request import CascadeOutput

REAL_PX = 128  # side of the real pictures in beside.png


def define_flags(fv: flags.FlagValues) -> None:
    """Defines the flags of all sampling verbs, --captions_of and --num_captions."""
    sampling.define_flags(fv)
    flags.DEFINE_string(
        "captions_of",
        None,
        "instead of --prompt: a data source, e.g. folder:photos; draws the captions of "
        "its validation split, where it has splits",
        flag_values=fv,
    )
    flags.DEFINE_integer(
        "num_captions",
        16,
        "number of captions from --captions_of, evenly spaced",
        lower_bound=1,
        flag_values=fv,
    )


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Draws every prompt and writes the pictures with their record."""
    sampling.refuse_arguments(args)
    real = None
    if fv.captions_of:
        asked, real = _read_source(fv)
    else:
        asked = sampling.read_prompts(fv)

    def draw(models: Glide, numbers: range, **options) -> CascadeOutput:
        part = [asked[number] for number in numbers]
        return models.sample(part, **options)

    def draw_sheets(drawn: drawing.Drawn, models: Glide) -> dict[str, np.ndarray]:
        used = (models.base, models.upsampler, models.clip)
        title = _title(fv.captions_of, [model.config for model in used if model])
        return {"beside.png": _draw_beside(title, real or [], drawn)}

    drawing.run(
        fv,
        drawing.Work(
            "sample",
            asked,
            draw,
            sheets=None if real is None else draw_sheets,
        ),
    )
    return 0


def _read_source(fv: flags.FlagValues) -> tuple[list[str], list[np.ndarray]]:
    """Returns evenly spaced captions of a source, and their square uint8 pictures."""
    import numpy as np

    from glide_jax.data import schema, sources, transforms
    from glide_jax.sample import image_io

    if fv.prompt or fv.prompt_file:
        raise UserError(
            "--captions_of replaces --prompt and --prompt_file; give one of them"
        )
    if fv.num_images > 1:
        raise UserError(
            f"--num_images={fv.num_images} with --captions_of, which draws each "
            "caption once; leave it out"
        )
    source = sources.open_source(fv.captions_of, split="validation")
    count = min(fv.num_captions, len(source))
    captions, pictures = [], []
    for i in range(count):
        try:
            example = source[i * len(source) // count]
            pictures.append(transforms.load_image(example, REAL_PX))
        except schema.BadRecordError as bad:
            raise UserError(
                f"--captions_of={fv.captions_of}: {bad.key}: {bad.reason}; remove the "
                "record, or give another --num_captions"
            ) from bad
        captions.append(example.caption)
    return captions, list(image_io.to_pixels(np.stack(pictures)))


def _draw_beside(
    title: str, real: list[np.ndarray], drawn: drawing.Drawn
) -> np.ndarray:
    """Returns a sheet: caption, real picture, base picture, upsampled picture."""
    from glide_jax.eval import contact_sheet
    from glide_jax.sample import prompt_tokens

    columns = {"real": real, f"{drawn.base_images[0].shape[1]} px": drawn.base_images}
    columns[f"{drawn.images[0].shape[1]} px"] = drawn.images
    rows = [
        (prompt_tokens.as_text(prompt), [pictures[i] for pictures in columns.values()])
        for i, prompt in enumerate(drawn.prompts)
    ]
    note = "Left: the real picture. Right: pictures drawn from its caption."
    section = contact_sheet.Section(title, note, [*columns], rows)
    return contact_sheet.draw_contact_sheet("Real and drawn", "", [section])


def _title(spec: str, configs: list[Config]) -> str:
    """Returns the heading of beside.png.

    Captions are certainly unseen only if the models were trained from scratch on the
    same synthetic shapes alone, whose splits are disjoint.
    """
    is_unseen = spec.startswith("shapes:") and all(
        set(config.data.sources) == {spec}
        and spec in config.data.validation_sources
        and not config.train.init_from
        for config in configs
    )
    return "Captions never trained on" if is_unseen else f"Captions of {spec}"

"""Draws what each option of `Glide` does, with the models of the quickstart.

    python experiments/figures/sampling_options.py runs/quickstart/bundles \
        experiments/results/options/sampling_options.png

Every section names what varies in it; the seed and all other options stay.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from PIL import Image

import glide_jax
from glide_jax.data import shapes_world
from glide_jax.eval import contact_sheet
from glide_jax.sample import image_io

CAPTION = "a large red triangle on a white background"
OTHER = "a large blue square on a white background"
SIDE = 64

SAMPLERS = {
    "ddpm, 100": {"sampler": "ddpm", "respacing": "100"},
    "ddim, 100": {"sampler": "ddim", "respacing": "100"},
    "ddim, 10": {"sampler": "ddim", "respacing": "10"},
    "plms, 10": {"sampler": "plms", "respacing": "10"},
    "DPM-Solver++, 10": {"sampler": "dpm_solver_pp", "respacing": "10"},
    "same, lambda10": {"sampler": "dpm_solver_pp", "respacing": "lambda10"},
}
ETAS = {f"eta {eta}": {"sampler": "ddim", "eta": eta} for eta in (0.0, 0.5, 1.0)}
SCALES = {f"scale {s:g}": {"guidance_scale": s} for s in (0, 1, 3, 6, 12)}
TAMED = {
    "nothing": {},
    "rescaled 0.7": {"guidance_rescale": 0.7},
    "thresholded": {"threshold_quantile": 0.95},
    "only above 500": {"guidance_interval": (500, 999)},
    "only below 500": {"guidance_interval": (0, 500)},
}
CLIP = {
    f"CLIP {s:g}": {"guidance_mode": "clip", "clip_guidance_scale": s}
    for s in (0, 10, 40)
} | {
    "CLIP and cfg": {"guidance_mode": "cfg+clip", "clip_guidance_scale": 10.0},
    "best of 8": {"candidates": 8},
}
FILLS = {mode: {"inpaint_mode": mode} for mode in ("pinned", "masked", "implicit")}


def main(bundles: pathlib.Path, output: pathlib.Path) -> None:
    """Draws the sheet."""
    glide = glide_jax.Glide.load(
        bundles / "base_cfg", bundles / "upsampler", bundles / "noised_clip"
    )
    filler = glide_jax.Glide.load(
        bundles / "base_inpaint", bundles / "upsampler_inpaint"
    )
    sections = [
        section(
            "Samplers and numbers of steps",
            "The sampler and its timesteps vary; classifier-free guidance is at 3.",
            drawn(glide, SAMPLERS),
        ),
        section(
            "Fresh noise in DDIM",
            "eta varies, from none of the noise to all of it; the sampler is ddim.",
            drawn(glide, ETAS),
        ),
        section(
            "Classifier-free guidance",
            "Its scale varies: 0 ignores the caption, 1 is no guidance.",
            drawn(glide, SCALES),
        ),
        section(
            "Options for a large guidance scale",
            "The scale stays 12; rescaling, dynamic thresholding at the quantile 0.95 "
            "and the timesteps between which guidance acts vary.",
            drawn(glide, TAMED, guidance_scale=12.0),
        ),
        section(
            "CLIP guidance, and choice by the CLIP",
            "Without classifier-free guidance the scale of CLIP guidance varies; then "
            "both kinds at once (scales 3 and 10), and the best of 8 candidates.",
            drawn(glide, CLIP),
        ),
        section(
            "The upsampler",
            "One 16 px picture enlarged to 64 px; the upsampler's sampler and timesteps"
            " vary, and whether colours are held to the small picture's.",
            drawn_large(glide),
        ),
        section(
            "Captions",
            f'The caption varies: alone, blended with "{OTHER}" by weight, left out, '
            "and left out while guidance steers away from the blue square.",
            drawn_captions(glide),
        ),
        section(
            "Inpainting",
            "The middle of a blue square's picture is filled; the way of filling "
            "varies, then the mask has a soft edge 6 px wide.",
            filled(filler),
        ),
        section(
            "Editing",
            f'The picture is edited to "{OTHER}"; the strength varies.',
            edited(glide),
        ),
        section(
            "Editing by inversion",
            "The same, but the noise is found by inverting DDIM with a caption of the "
            "picture (source_prompts); the strength varies.",
            edited(glide, source_prompts=CAPTION),
        ),
        section(
            "Outpainting",
            "Half a picture, and the whole that is drawn to its right.",
            extended(filler),
        ),
    ]
    sheet = contact_sheet.draw_contact_sheet(
        "What the sampling options do",
        "Drawn by the models of the quickstart, 16 px and 64 px. The caption is "
        f'"{CAPTION}" where no other is named. The seed, and every option that a '
        "section does not name, stay the same.",
        sections,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(output)


def section(
    title: str, note: str, columns: dict[str, np.ndarray]
) -> contact_sheet.Section:
    """One row of pictures with their names above them."""
    row = ("", list(columns.values()))
    return contact_sheet.Section(title, note, list(columns), [row])


def drawn(glide: glide_jax.Glide, variants: dict[str, dict], **common) -> dict:
    """The small picture under each variant."""
    return {
        name: glide.sample(CAPTION, **{**common, **options}).base_images[0]
        for name, options in variants.items()
    }


def drawn_large(glide: glide_jax.Glide) -> dict:
    """One small picture enlarged in several ways."""
    small = glide.sample(CAPTION).base_images
    variants = {
        "DPM-Solver++, 10": {},
        "same, held colours": {"match_low_res": True},
        "ddpm, 25": {"upsampler_sampler": "ddpm", "upsampler_respacing": "25"},
        "ddim, 27": {"upsampler_sampler": "ddim", "upsampler_respacing": "fast27"},
    }
    return {"small": small[0]} | {
        name: glide.upsample(small, CAPTION, **options).images[0]
        for name, options in variants.items()
    }


def drawn_captions(glide: glide_jax.Glide) -> dict:
    """A caption, others in its place, beside it and against it."""
    asked = {
        "alone": (CAPTION, ""),
        "with a square, 0.7 : 0.3": ({CAPTION: 0.7, OTHER: 0.3}, ""),
        "0.3 : 0.7": ({CAPTION: 0.3, OTHER: 0.7}, ""),
        "no caption": ("", ""),
        "no caption, no square": ("", OTHER),
    }
    return {
        name: glide.sample(caption, negative_prompt=negative).base_images[0]
        for name, (caption, negative) in asked.items()
    }


def filled(glide: glide_jax.Glide) -> dict:
    """A blue square's picture with its middle filled in each way."""
    picture, mask = real(OTHER), np.ones((SIDE, SIDE), np.uint8)
    mask[10:54, 10:54] = 0
    result = {"picture": picture}
    for name, options in FILLS.items():
        result[name] = glide.inpaint(picture, mask, CAPTION, **options).images[0]
    soft = glide.inpaint(picture, mask, CAPTION, feather_px=6).images[0]
    return result | {"soft edge of 6": soft}


def edited(glide: glide_jax.Glide, **options) -> dict:
    """A red triangle made a blue square, more and more."""
    picture = real(CAPTION)
    return {"picture": picture} | {
        f"strength {s:g}": glide.edit(picture, OTHER, strength=s, **options).images[0]
        for s in (0.0, 0.4, 0.7, 0.9, 1.0)
    }


def extended(glide: glide_jax.Glide) -> dict:
    """The left half of a picture, and what is drawn beyond it."""
    half = real(CAPTION)[:, : SIDE // 2]
    whole = glide.outpaint(half, CAPTION, (0, 0, SIDE // 2, 0)).images[0]
    return {"left half": image_io.resize(half[None], SIDE)[0], "continued": whole}


def real(caption: str) -> np.ndarray:
    """The picture that a caption describes, uint8 (SIDE, SIDE, 3)."""
    return shapes_world.render(shapes_world.parse_caption(caption), SIDE)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))

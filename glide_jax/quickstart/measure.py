"""Samples from the trained models with held-out captions, and scores the samples."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from glide_jax.data import shapes_world
from glide_jax.eval import shapes_checker
from glide_jax.runtime import progress
from glide_jax.runtime.ledger import Ledger
from glide_jax.sample import cascade, restore

MODES = {"unguided": "none", "cfg": "cfg", "clip": "clip", "cfg+clip": "cfg+clip"}
# CLIP guidance differentiates the CLIP at every step, so its modes use fewer.
CAPTIONS = {"unguided": 256, "cfg": 256, "clip": 64, "cfg+clip": 64}
UPSAMPLED = 64
INPAINTED = 64
# The hole covers the small object and its jitter, and the background around is known.
# Its side is 46 of 64 pixels, so its edge is inside pixels of the base model.
HOLE_FRACTION = 46 / 64
GUIDANCE_SCALE = 3.0
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Counts:
    """The number of pictures of each measurement, a share of the full numbers."""

    share: float = 1.0

    def of(self, full: int) -> int:
        """Returns the share of `full`, at least two."""
        return max(2, round(full * self.share))


def held_out(count: int, px: int) -> tuple[np.ndarray, list[shapes_world.ShapeScene]]:
    """Returns real pictures (N, px, px, 3) of held-out colour-shape pairs."""
    world = shapes_world.ShapesWorld("quickstart", "held_out", seed=3, size_px=px)
    scenes = [world.spec(i) for i in range(count)]
    return np.stack([shapes_world.render(scene, px) for scene in scenes]), scenes


class Measurements:
    """Runs the tasks of the ledger; each stores its pictures in a .npz file."""

    def __init__(self, root: pathlib.Path, ledger: Ledger, counts: Counts):
        self._root, self._ledger, self._counts = root, ledger, counts
        self._models: dict[str, restore.SampleModel] = {}

    def run(self) -> None:
        """Runs all tasks of report.json that are not finished."""
        tasks = {
            "checker_on_real": self._check_real,
            **{name: functools.partial(self._sample, name) for name in MODES},
            "upsampled": self._upsample,
            "inpaint": self.inpaint,
        }
        left = [name for name in tasks if not self._ledger.is_done(name)]
        logging.info("sampling and scoring%s", "" if left else ": already done")
        for name in left:
            self._do(name, tasks[name])

    def pictures(self, task: str) -> dict[str, np.ndarray]:
        """Reads the pictures of a task."""
        with np.load(self._root / "pictures" / f"{task}.npz") as file:
            return dict(file)

    def _do(self, name: str, make: Callable[[], tuple[Any, dict]]) -> None:
        with self._ledger.timed(name):
            result, pictures = make()
            folder = self._root / "pictures"
            folder.mkdir(exist_ok=True)
            np.savez_compressed(folder / f"{name}.npz", **pictures)
        self._ledger.finish(name, result)

    def _check_real(self) -> tuple[Any, dict]:
        pictures, scenes = held_out(self._counts.of(256), self._base_px())
        found = shapes_checker.score(pictures, _captions(scenes))
        return _shares(found), {"real": pictures}

    def _sample(self, name: str) -> tuple[Any, dict]:
        _, scenes = held_out(self._counts.of(CAPTIONS[name]), self._base_px())
        models = self._cascade("base_cfg", with_clip="clip" in MODES[name])
        with progress.ProgressBar(len(scenes), f"sampling, {name}") as bar:
            drawn = models.sample(
                _captions(scenes),
                guidance_mode=MODES[name],
                guidance_scale=GUIDANCE_SCALE if "cfg" in MODES[name] else None,
                batch_size=BATCH_SIZE,
                progress=bar.update,
            ).base_images
        return shapes_checker.score(drawn, _captions(scenes)), {"drawn": drawn}

    def _upsample(self) -> tuple[Any, dict]:
        small = self.pictures("cfg")["drawn"][: self._counts.of(UPSAMPLED)]
        _, scenes = held_out(len(small), self._base_px())
        models = self._cascade("base_cfg", upsampler="upsampler")
        with progress.ProgressBar(len(scenes), "upsampling") as bar:
            drawn = models.upsample(
                small,
                _captions(scenes),
                batch_size=16,
                progress=bar.update,
            ).images
        found = shapes_checker.score(drawn, _captions(scenes))
        return _shares(found), {"drawn": drawn}

    def inpaint(self) -> tuple[Any, dict]:
        """Returns the figures of filled holes, and the pictures by name."""
        count = self._counts.of(INPAINTED)
        models = self._cascade("base_inpaint", upsampler="upsampler_inpaint")
        px = self._model("upsampler_inpaint").config.model.image_px
        originals, requested = inpainting_requests(count, px)
        mask = hole_mask(px)
        with progress.ProgressBar(count * models.num_stages, "inpainting") as bar:
            result = models.inpaint(
                originals,
                np.stack([mask] * count),
                _captions(requested),
                guidance_scale=GUIDANCE_SCALE,
                batch_size=16,
                progress=bar.update,
            )
        error = np.abs(result.images.astype(int) - originals.astype(int))
        right = [
            shapes_checker.read_scene(image)[:2] == (scene.colour, scene.shape)
            for image, scene in zip(result.images, requested, strict=True)
        ]
        found = {
            "filled_as_asked": float(np.mean(right)),
            "known_pixel_max_error": float(error[:, mask == 1].max() / 255),
        }
        return found, {
            "originals": originals,
            "small": result.base_images,
            "large": result.images,
        }

    def _base_px(self) -> int:
        return self._model("base_cfg").config.model.image_px

    def _cascade(
        self, base: str, *, upsampler: str = "", with_clip: bool = False
    ) -> cascade.Glide:
        return cascade.Glide(
            self._model(base),
            self._model(upsampler) if upsampler else None,
            self._model("noised_clip") if with_clip else None,
        )

    def _model(self, name: str) -> restore.SampleModel:
        if name not in self._models:
            folder = self._root / "bundles" / name
            self._models[name] = restore.load_bundle(folder)
        return self._models[name]


def hole_mask(px: int) -> np.ndarray:
    """Returns a mask (px, px), float32: 0 in the centre, over the object, else 1."""
    mask = np.ones((px, px), np.float32)
    edge = round(px * (1 - HOLE_FRACTION) / 2)
    mask[edge : px - edge, edge : px - edge] = 0
    return mask


def inpainting_requests(
    count: int, px: int
) -> tuple[np.ndarray, list[shapes_world.ShapeScene]]:
    """Returns pictures of small objects, and the scenes that replace the objects."""
    world = shapes_world.ShapesWorld("quickstart", "held_out", seed=2, size_px=px)
    scenes = [
        dataclasses.replace(world.spec(i), size="small") for i in range(2 * count)
    ]
    originals, requested = scenes[:count], scenes[count:]
    requested = [
        dataclasses.replace(new, background=old.background)
        for old, new in zip(originals, requested, strict=True)
    ]
    return np.stack([shapes_world.render(s, px) for s in originals]), requested


def _captions(scenes: list[shapes_world.ShapeScene]) -> list[str]:
    return [shapes_world.caption(scene) for scene in scenes]


def _shares(found: dict[str, float | int]) -> dict[str, float | int]:
    return {name: share for name, share in found.items() if name != "n"}

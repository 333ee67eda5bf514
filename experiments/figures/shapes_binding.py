"""The binding benchmark: trains on two objects, draws unseen ones, counts the errors.

    python experiments/figures/shapes_binding.py --root=runs/shapes

Trains experiments/configs/base64_shapes.py:tiny on shapes:full, draws held-out captions
at each guidance scale from the same noise, and reads the pictures
(`glide_jax/eval/binding_errors.py`). The first object of each held-out caption has a
pair of colour and shape that training lacks. Writes rows.jsonl, table.md and
samples.png to the root. The same command continues an interrupted one; --share=0.01
makes everything shorter, for a test.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import pathlib
import sys

import numpy as np
from PIL import Image

from glide_jax.config import experiments, resolve
from glide_jax.data import shapes_world
from glide_jax.errors import UserError
from glide_jax.eval import binding_errors, contact_sheet
from glide_jax.runtime import files, lifecycle, progress
from glide_jax.runtime.ledger import Ledger
from glide_jax.sample import cascade, restore
from glide_jax.train import export, loop, run_folder

# The columns of the sheet and the rows of the table; None: real pictures.
SCALES: tuple[float | None, ...] = (None, 1.0, 2.0, 3.0, 5.0)
# Captions by their number of objects, and how many of them the sheet shows.
CAPTIONS = {2: 256, 1: 128}
SHOWN = {2: 8, 1: 4}
BATCH_SIZE = 64


def title(scale: float | None) -> str:
    """The name of a row or column."""
    if scale is None:
        return "real pictures"
    return "unguided" if scale == 1 else f"scale {scale:g}"


def task_of(scale: float | None, num_objects: int) -> str:
    """The name of a task of the ledger, and of its file of pictures."""
    return f"{title(scale)}, objects {num_objects}"


def train(root: pathlib.Path, done: Ledger, share: float) -> lifecycle.ExitCode:
    """Trains and exports the model, or continues; skips a finished one."""
    if done.is_done("train"):
        return lifecycle.ExitCode.OK
    config = experiments.load("base64_shapes", "tiny")
    steps = max(1, round(config.train.num_steps * share))
    warmup = min(config.optim.warmup_steps, steps - 1)
    changes = {"train.num_steps": steps, "optim.warmup_steps": warmup}
    with done.timed("train"):
        code = loop.train(resolve.override(config, changes), root / "base")
        if code != lifecycle.ExitCode.OK:
            return code
        export.export(root / "base", root / "bundle")
    images = steps * config.train.global_batch_size
    done.finish("train", {"steps": steps, "images": images})
    return lifecycle.ExitCode.OK


def held_out(num_objects: int, share: float) -> list[shapes_world.ShapeScene]:
    """The first held-out scenes with this number of objects."""
    world = shapes_world.ShapesWorld("full", "held_out")
    scenes = map(world.spec, range(len(world)))
    fitting = (scene for scene in scenes if len(scene.objects) == num_objects)
    count = max(2, round(CAPTIONS[num_objects] * share))
    return list(itertools.islice(fitting, count))


def draw(
    models: cascade.Glide, scenes: list[shapes_world.ShapeScene], scale: float
) -> np.ndarray:
    """Samples a picture of each scene's caption, uint8 (N, px, px, 3)."""
    with progress.ProgressBar(len(scenes), title(scale)) as bar:
        return models.sample(
            [shapes_world.caption(scene) for scene in scenes],
            guidance_mode="cfg",  # one program; at scale 1 it equals none
            guidance_scale=scale,
            batch_size=BATCH_SIZE,
            progress=bar.update,
        ).images


def measure(root: pathlib.Path, done: Ledger, share: float) -> None:
    """Draws and reads the pictures that are not yet in the ledger."""
    model = restore.load_bundle(root / "bundle")
    models = cascade.Glide(model)  # compiled once for all scales
    px = model.config.model.image_px
    for num_objects, scale in itertools.product(CAPTIONS, SCALES):
        task = task_of(scale, num_objects)
        if done.is_done(task):
            continue
        scenes = held_out(num_objects, share)
        with done.timed(task):
            if scale is None:
                drawn = np.stack([shapes_world.render(scene, px) for scene in scenes])
            else:
                drawn = draw(models, scenes, scale)
            np.savez_compressed(root / f"{task}.npz", drawn=drawn)
            captions = [shapes_world.caption(scene) for scene in scenes]
            found = binding_errors.score(drawn, captions)
        done.finish(task, found)


def rows_of(done: Ledger) -> list[dict]:
    """A row for each scale and number of objects, with the length of the training."""
    length = done.result("train") | {"train_seconds": round(done.seconds("train"))}
    return [
        {"objects": num_objects, "guidance_scale": scale, **length, **found}
        for num_objects, scale in itertools.product(CAPTIONS, SCALES)
        for found in [done.result(task_of(scale, num_objects))]
    ]


def tables(rows: list[dict]) -> str:
    """Markdown tables of the outcomes and of the words, for each number of objects."""
    parts = []
    for num_objects, kind in itertools.product(CAPTIONS, ("outcomes", "words")):
        chosen = [row for row in rows if row["objects"] == num_objects]
        names = list(chosen[0][kind])
        heading = (
            f"{num_objects} objects, {kind}"
            if num_objects > 1
            else f"one object, {kind}"
        )
        lines = [
            f"| {heading} | {' | '.join(names)} |",
            "|---" * (len(names) + 1) + "|",
        ]
        for row in chosen:
            shares = " | ".join(f"{row[kind][name]:.1%}" for name in names)
            lines.append(f"| {title(row['guidance_scale'])} | {shares} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def sheet(root: pathlib.Path, rows: list[dict], share: float) -> np.ndarray:
    """The first captions of each number of objects, real and at each scale."""
    return contact_sheet.draw_contact_sheet(
        "The binding benchmark",
        "The first held-out captions, not chosen by eye. Training contains no picture "
        "with the first object's pair of colour and shape. Below each title: the share "
        "of pictures in which every word is right. Below each picture: what is wrong.",
        [_section(root, rows, num_objects, share) for num_objects in CAPTIONS],
    )


def _section(
    root: pathlib.Path, rows: list[dict], num_objects: int, share: float
) -> contact_sheet.Section:
    scenes = held_out(num_objects, share)[: SHOWN[num_objects]]
    columns, titles = [], []
    for row in rows:
        if row["objects"] != num_objects:
            continue
        scale = row["guidance_scale"]
        with np.load(root / f"{task_of(scale, num_objects)}.npz") as file:
            columns.append(file["drawn"][: len(scenes)])
        titles.append(f"{title(scale)}\n{row['outcomes']['right']:.0%} right")
    notes = [
        [binding_errors.compare(scene, column[i]).outcome for column in columns]
        for i, scene in enumerate(scenes)
    ]
    pictures = [
        (shapes_world.caption(scene), [column[i] for column in columns])
        for i, scene in enumerate(scenes)
    ]
    name = "Two objects" if num_objects == 2 else "One object"
    return contact_sheet.Section(name, "", titles, pictures, notes)


def main(root: pathlib.Path, share: float) -> int:
    """Runs what is left and writes the results; returns the exit code."""
    run_folder.prepare(root, flag="--root")
    done = Ledger(root / "ledger.json")
    done.keep_setting("share", share)
    code = train(root, done, share)
    if code != lifecycle.ExitCode.OK:
        return code
    measure(root, done, min(share, 1.0))
    rows = rows_of(done)
    files.write_text(root / "rows.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    files.write_text(root / "table.md", tables(rows))
    Image.fromarray(sheet(root, rows, min(share, 1.0))).save(root / "samples.png")
    print(tables(rows))
    print(f"{done.seconds() / 60:.1f} minutes; pictures: {root / 'samples.png'}")
    return lifecycle.ExitCode.OK


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=pathlib.Path, default="runs/shapes")
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sys.exit(main(given.root, given.share))
    except UserError as error:
        sys.exit(f"shapes_binding.py: {error}")

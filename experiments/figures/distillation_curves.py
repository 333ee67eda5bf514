"""Measures students along their training, as rows of JSON.

    python experiments/figures/distillation_curves.py runs/distil/bundles/base_fold \
        experiments/results/distil/moments.json runs/halve2 runs/moments2 ...

Every kept checkpoint of a workdir draws the same 256 held-out captions at scale 3 with
the same seed (`glide_jax/distil/compare.py`). The first argument is the teacher, whose
pictures are judged as well. Beside the shares that the checker reads, a row has

- variance: the mean variance of the pictures of one caption, pixels in [-1, 1]; a
  student that always draws the same picture has none,
- value_distance: the mean distance between the sorted values of all pixels and those of
  the real pictures; grey pictures are far from the full colours of the data.

Rows that the output has are kept.
"""

from __future__ import annotations

import collections
import pathlib
import sys
import tempfile

import numpy as np

from glide_jax.checkpoint import store
from glide_jax.distil import compare
from glide_jax.runtime import files
from glide_jax.sample import restore
from glide_jax.train import export, run_folder

COUNT, SCALE = 256, 3.0


def judge(model: restore.SampleModel, task: compare.Task, *, is_teacher: bool) -> dict:
    """The values of a row."""
    drawn = compare.draw(model, task, "draw", scale=SCALE, is_reference=is_teacher)
    shares = compare.figures(drawn, drawn, task)
    by_caption = collections.defaultdict(list)
    for picture, caption in zip(drawn, task.captions, strict=True):
        by_caption[caption].append(picture / 127.5 - 1)
    spread = [np.var(group, axis=0, ddof=1).mean() for group in by_caption.values()]
    found = {name: shares[name] for name in ("colour", "shape", "background")}
    found["variance"] = round(float(np.mean(spread)), 5)
    values, real = (np.sort(pictures, axis=None) for pictures in (drawn, task.images))
    distance = np.mean(np.abs(values / 127.5 - real / 127.5))
    return found | {"value_distance": round(float(distance), 5)}


def main(teacher: str, output: str, *workdirs: str) -> None:
    """Writes the rows of the teacher and of each checkpoint."""
    place = pathlib.Path(output)
    rows = files.read_json(place) if place.exists() else []
    done = {(row["name"], row.get("training_steps")) for row in rows}
    first = restore.load_bundle(pathlib.Path(teacher))
    task = compare.make_task(first.config, first, COUNT)
    if ("teacher", None) not in done:
        rows.append({"name": "teacher", **judge(first, task, is_teacher=True)})
    for workdir in map(pathlib.Path, workdirs):
        config = run_folder.load_config(workdir)
        checkpoints = store.CheckpointStore(run_folder.checkpoints(workdir))
        for step in checkpoints.steps():
            if (workdir.name, step) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                bundle = pathlib.Path(folder) / "bundle"
                export.export(workdir, bundle, step=step, dtype="float32")
                model = restore.load_bundle(bundle)
                row = {
                    "name": workdir.name,
                    "loss": config.train.student_loss,
                    "sampling_steps": config.train.student_steps,
                    "training_steps": step,
                    "images": step * config.train.global_batch_size,
                    **judge(model, task, is_teacher=False),
                }
            rows.append(row)
            files.write_json(place, rows)
            print(row)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Measures how often inpainting students fill a hole as the caption asks.

    glide distil --base=runs/quickstart/bundles/base_inpaint \
        --upsampler=runs/quickstart/bundles/upsampler_inpaint --teacher_steps=16 \
        --upsampler_teacher_steps=8 --output=runs/distil_inpaint
    python experiments/figures/inpainting_students.py runs/distil_inpaint/bundles

The holes, captions and checker are those of the quickstart
(`glide_jax/quickstart/measure.py`). The figures of the teachers and of the students are
in experiments/results/distil/inpainting.json.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

from glide_jax.quickstart import measure
from glide_jax.runtime import files
from glide_jax.runtime.ledger import Ledger

OUTPUT = pathlib.Path("experiments/results/distil/inpainting.json")
TEACHERS = pathlib.Path("runs/quickstart/bundles")
# The bundles that draw and enlarge, by the name of the row.
PAIRS = {
    "teachers": ("base_inpaint", "upsampler_inpaint"),
    "8 and 2 steps": ("base_8", "upsampler_2"),
    "4 and 4 steps": ("base_4", "upsampler_4"),
    "4 and 2 steps": ("base_4", "upsampler_2"),
}


def fill(base: pathlib.Path, upsampler: pathlib.Path) -> dict[str, float]:
    """The quickstart's figures of inpainting, by these two bundles."""
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        (root / "bundles").mkdir()
        (root / "bundles" / "base_inpaint").symlink_to(base.resolve())
        (root / "bundles" / "upsampler_inpaint").symlink_to(upsampler.resolve())
        done = Ledger(root / "ledger.json")
        found, _ = measure.Measurements(root, done, measure.Counts()).inpaint()
    return found


def main(students: str) -> None:
    """Writes a row for each pair."""
    rows = {}
    for name, (base, upsampler) in PAIRS.items():
        folder = TEACHERS if name == "teachers" else pathlib.Path(students)
        rows[name] = fill(folder / base, folder / upsampler)
        print(name, rows[name])
    files.write_json(OUTPUT, rows)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Judges the icons models by two networks that took no part in what they judge.

    launch/icons.sh
    python experiments/figures/icons_report.py

It draws a picture of 32 px for each of 256 captions of a split, spread evenly over it.
The second noised CLIP compares it with its caption, and EfficientNet-Lite0 compares all
of them with the 572 real pictures of the split "seen", which are a sample of the
training set. The rows "real" are of all real pictures of the split. The Frechet
distance falls with the number of pictures, the kernel distance does not. Finished rows
are kept, so that a run that was cut off continues. The results are report.json,
report.md and, for each split, a sheet of the real, drawn and enlarged pictures of 24
captions in experiments/results/icons.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

from PIL import Image

from glide_jax.runtime import files

ROOT = pathlib.Path("runs/icons_models/report")
REFERENCE = ROOT / "seen.npz"
RESULTS = pathlib.Path("experiments/results/icons")
BASE, UPSAMPLER = (f"--{n}=glide_jax/shipped/{n}" for n in ("base", "upsampler"))
JUDGE = "runs/icons_models/bundles/judge"
FEATURES = "--features=efficientnet_lite0"
SEEN = "seen"
SPLITS = (SEEN, "val_pairs", "val_concepts")
NUM_CAPTIONS, NUM_SHOWN = 256, 24
# Pictures of the models by the name of their row.
DRAWN = {
    "unguided": ["--guidance_mode=none"],
    "classifier-free": ["--guidance_mode=cfg"],
}
COLUMNS = {
    "noised_clip_retrieval_among_128": "own caption of 128",
    "noised_clip_score": "CLIP score",
    "efficientnet_lite0_fd": "FD",
    "efficientnet_lite0_kd": "KD",
}
# Widest side of a committed sheet, pixels.
SHEET_PX = 1600


def glide(*words: object) -> None:
    command = pathlib.Path(sys.executable).with_name("glide")
    subprocess.run([command, *map(str, words)], check=True)


def evaluate(name: str, *words: object) -> dict[str, float]:
    """Returns the metrics of one row; a finished one is read again."""
    output = ROOT / name.replace(" ", "_")
    given = [FEATURES, f"--judge={JUDGE}", f"--reference={REFERENCE}"]
    glide(
        "evaluate", *given, "--metrics=fid,kid,clip_score", f"--output={output}", *words
    )
    return json.loads((output / "result.json").read_text())["metrics"]


def sheet(split: str) -> None:
    """Writes the sheet of a split beside the report."""
    output = ROOT / f"{split}_sheet"
    source = f"--captions_of=webdataset:runs/icons/{split}"
    if not (output / "beside.png").exists():
        shutil.rmtree(output, ignore_errors=True)
        count = f"--num_captions={NUM_SHOWN}"
        glide("sample", source, count, f"--output={output}", BASE, UPSAMPLER)
    with Image.open(output / "beside.png") as drawn:
        drawn.thumbnail((SHEET_PX, 10 * SHEET_PX))
        drawn.quantize(128).save(RESULTS / f"{split}.png", optimize=True)


def main() -> None:
    """Writes the rows, the table and the sheets."""
    ROOT.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not REFERENCE.exists():
        source = f"--source=webdataset:runs/icons/{SEEN}"
        glide(
            "evaluate",
            "reference",
            source,
            "--px=32",
            FEATURES,
            f"--output={REFERENCE}",
        )
    rows = []
    for split in SPLITS:
        source = f"webdataset:runs/icons/{split}"
        count = f"--num_images={NUM_CAPTIONS}"
        real = [f"--images={source}", "--px=32"]
        rows.append(
            {"split": split, "pictures": "real", **evaluate(f"{split} real", *real)}
        )
        for name, flags in DRAWN.items():
            drawn = [f"--captions_of={source}", count, *flags, BASE]
            found = evaluate(f"{split} {name}", *drawn)
            rows.append({"split": split, "pictures": name, **found})
    files.write_json(RESULTS / "report.json", rows)
    table = [["split", "pictures", *COLUMNS.values()], ["---"] * (2 + len(COLUMNS))]
    for row in rows:
        cells = [f"{row[name]:.3g}" for name in COLUMNS]
        table.append([row["split"], row["pictures"], *cells])
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    (RESULTS / "report.md").write_text(f"{lines}\n")
    for split in SPLITS:
        sheet(split)


if __name__ == "__main__":
    main()

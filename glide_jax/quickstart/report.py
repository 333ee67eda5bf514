"""Writes report.json and samples.png from the ledger and the pictures."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from glide_jax.data import shapes_world
from glide_jax.eval import contact_sheet
from glide_jax.quickstart import measure, phases
from glide_jax.runtime import files
from glide_jax.runtime.ledger import Ledger

ROWS = 6
INPAINT_ROWS = 4


def make_report(ledger: Ledger) -> dict[str, Any]:
    """Returns the results; seconds include all starts and compilation."""
    return {
        "wall_seconds": round(ledger.seconds(), 1),
        "phases": {
            phase.name: {
                "seconds": round(ledger.seconds(phase.name), 1),
                **ledger.result(phase.name),
            }
            for phase in phases.PHASES
        },
        "checker_on_real": ledger.result("checker_on_real"),
        "modes": {mode: ledger.result(mode) for mode in measure.MODES},
        "upsampled": ledger.result("upsampled"),
        "inpaint": ledger.result("inpaint"),
    }


def as_text(report: dict[str, Any]) -> str:
    """Formats tables of the phases and of the shares of correct pictures."""
    lines = [f"{'phase':<20}{'steps':>7}{'seconds':>9}{'first loss':>12}{'last':>9}"]
    for name, found in report["phases"].items():
        lines.append(
            f"{name:<20}{found['steps']:>7,}{found['seconds']:>9.1f}"
            f"{found['loss_first']:>12.4f}{found['loss_last']:>9.4f}"
        )
    lines.append(
        f"{report['wall_seconds']:.1f} seconds in all, with sampling and scoring"
    )
    lines += [
        "",
        f"{'read by the checker':<20}{'colour':>7}{'shape':>9}{'background':>12}",
    ]
    shares = {
        "real pictures": report["checker_on_real"],
        **report["modes"],
        "upsampled": report["upsampled"],
    }
    for name, found in shares.items():
        lines.append(
            f"{name:<20}{found['colour']:>7.0%}{found['shape']:>9.0%}"
            f"{found['background']:>12.0%}"
        )
    inpaint = report["inpaint"]
    lines.append(
        f"inpainting: {inpaint['filled_as_asked']:.0%} filled with the requested colour"
        f" and shape; known pixels differ by at most"
        f" {inpaint['known_pixel_max_error']:.0%} of the range"
    )
    return "\n".join(lines)


def write(
    root: pathlib.Path, ledger: Ledger, done: measure.Measurements
) -> dict[str, Any]:
    """Writes both files under `root`; returns the content of report.json."""
    report = make_report(ledger)
    files.write_text(root / "report.json", json.dumps(report, indent=2) + "\n")
    Image.fromarray(draw(report, done)).save(root / "samples.png")
    return report


def draw(report: dict[str, Any], done: measure.Measurements) -> np.ndarray:
    """Draws the contact sheet, uint8 (H, W, 3)."""
    return contact_sheet.draw_contact_sheet(
        "GLIDE, trained on this machine",
        "Every picture is sampled from its caption. Training contains no picture with "
        "the caption's pair of colour and shape. Below each title: the share of "
        "pictures in which a checker reads the caption's colour, shape and background.",
        [_samples(report, done), _inpaintings(report, done)],
    )


def _samples(
    report: dict[str, Any], done: measure.Measurements
) -> contact_sheet.Section:
    columns = [done.pictures(mode)["drawn"] for mode in measure.MODES]
    columns.append(done.pictures("upsampled")["drawn"])
    shares = [*report["modes"].values(), report["upsampled"]]
    titles = ["unguided", "classifier-free 3", "CLIP-guided", "both", "2nd, upsampled"]
    _, scenes = measure.held_out(len(columns[0]), columns[0].shape[1])
    rows = [
        (shapes_world.caption(scenes[i]), [column[i] for column in columns])
        for i in _varied(scenes, min(map(len, columns)))
    ]
    small, large = columns[0].shape[1], columns[-1].shape[1]
    return contact_sheet.Section(
        "From caption to picture",
        f"{small} px pictures of the base model with four kinds of guidance; at the "
        f"right the classifier-free one, enlarged to {large} px by the upsampler.",
        [
            "\n".join(
                [title, *(f"{share[word]:.0%} {word}" for word in share if word != "n")]
            )
            for title, share in zip(titles, shares, strict=True)
        ],
        rows,
    )


def _inpaintings(
    report: dict[str, Any], done: measure.Measurements
) -> contact_sheet.Section:
    pictures = done.pictures("inpaint")
    large, small = pictures["large"], pictures["small"]
    mask = measure.hole_mask(large.shape[1])[..., None]
    # Gray marks the unknown pixels.
    holes = pictures["originals"] * mask + 160 * (1 - mask)
    _, requested = measure.inpainting_requests(len(large), large.shape[1])
    rows = [
        (
            shapes_world.caption(requested[i]),
            [pictures["originals"][i], holes[i].astype(np.uint8), small[i], large[i]],
        )
        for i in range(min(INPAINT_ROWS, len(large)))
    ]
    share = report["inpaint"]["filled_as_asked"]
    return contact_sheet.Section(
        "Inpainting",
        "The gray square is erased and filled according to the caption; the rest is "
        f"unchanged. {share:.0%} are filled with the requested colour and shape.",
        [
            "original",
            "with the hole",
            f"filled, {small.shape[1]} px",
            f"filled, {large.shape[1]} px",
        ],
        rows,
    )


def _varied(scenes: list[shapes_world.ShapeScene], count: int) -> list[int]:
    """Returns indices of the first scenes with distinct colours and shapes."""
    chosen: dict[tuple[str, str], int] = {}
    for i in range(count):
        chosen.setdefault((scenes[i].colour, scenes[i].shape), i)
    return list(chosen.values())[:ROWS]

"""Compares every stage with its first teacher; writes report.json and samples.png."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from glide_jax.config.defaults import Config
from glide_jax.diffusion import respacing
from glide_jax.distil import compare, stages
from glide_jax.errors import UserError
from glide_jax.eval import contact_sheet
from glide_jax.models import build
from glide_jax.runtime import files
from glide_jax.runtime.ledger import Ledger
from glide_jax.sample import restore

# Guidance scales of the curve of a student that reads the scale.
SCALES = (1.0, 2.0, 3.0, 5.0)
SHOWN = 6  # rows of the sheet


@dataclasses.dataclass(frozen=True)
class Chain:
    """A first teacher and the stages that start from it.

    Attributes:
      request: what was asked for.
      stages: in order.
      configs: settings of each stage.
    """

    request: stages.Request
    stages: list[stages.Stage]
    configs: list[Config]


def measure(chain: Chain, root: pathlib.Path, done: Ledger, count: int) -> None:
    """Draws and compares the stages of a chain that are not compared yet.

    Figures are tasks of the ledger, NAME/figures; pictures are in ROOT/pictures.

    Args:
      chain: trained stages.
      root: output folder.
      done: the ledger.
      count: number of held-out examples.

    Raises:
      UserError: no validation data, or a damaged bundle.
    """
    role = chain.request.role
    names = [f"{role}_teacher", *(stage.name for stage in chain.stages)]
    if all(done.is_done(f"{name}/figures") for name in names):
        return
    teacher = restore.load_bundle(chain.request.teacher)
    task = compare.make_task(chain.configs[-1], teacher, count)
    captions = {"captions": task.captions[:SHOWN]}
    (root / "pictures").mkdir(exist_ok=True)
    files.write_json(root / "pictures" / f"{role}_captions.json", captions)
    for name in names:
        if done.is_done(f"{name}/figures"):
            continue
        is_teacher = name == names[0]
        folder = root / "bundles" / name
        model = teacher if is_teacher else restore.load_bundle(folder)
        with done.timed(f"{name}/figures"):
            found = {}
            # The curve is that of the first teacher and of the last student.
            is_between = name not in (names[0], names[-1])
            for scale in [_shown_scale(chain)] if is_between else _scales(chain):
                title = f"{name}, scale {scale:g}" if scale else name
                drawn = compare.draw(
                    model, task, title, scale=scale, is_reference=is_teacher
                )
                _save(root, name, scale, drawn)
                reference = drawn if is_teacher else _read(root, names[0], scale)
                found[_key(scale)] = compare.figures(drawn, reference, task)
        done.finish(f"{name}/figures", found)


def _scales(chain: Chain) -> list[float | None]:
    """The guidance scales to compare at; None without folded guidance."""
    model = chain.configs[-1].model
    limits: tuple[float, ...] = getattr(model, "guidance_range", ())
    if not limits:
        return [None]
    return [scale for scale in SCALES if limits[0] <= scale <= limits[1]]


def _shown_scale(chain: Chain) -> float | None:
    """The guidance scale at which every stage is compared."""
    scales = _scales(chain)
    return 3.0 if 3.0 in scales else scales[-1]


def make_report(chains: list[Chain], done: Ledger) -> dict[str, Any]:
    """Returns the rows of every model, the first teachers first, as JSON values."""
    rows: list[dict[str, Any]] = []
    for chain in chains:
        role = chain.request.role
        origin = stages.first_config(chain.request)
        is_guided = _scales(chain) != [None]
        rows.append(
            {
                "name": f"{role}_teacher",
                "bundle": str(chain.request.teacher),
                **_work(origin, compare.TEACHER_STEPS[role], 1 + is_guided),
                "figures": done.result(f"{role}_teacher/figures"),
            }
        )
        for stage, config in zip(chain.stages, chain.configs, strict=True):
            rows.append(
                {
                    "name": stage.name,
                    **done.result(stage.name),
                    "seconds": round(done.seconds(stage.name), 1),
                    **_work(config, config.sample.respacing, 1),
                    "figures": done.result(f"{stage.name}/figures"),
                }
            )
    return {"wall_seconds": round(done.seconds(), 1), "models": rows}


def _work(config: Config, spec: str, rows: int) -> dict[str, Any]:
    """Steps, rows and operations of a picture."""
    diffusion = config.diffusion
    kept = respacing.kept_timesteps(diffusion.num_timesteps, spec, diffusion.schedule)
    parts = build.forward_flops(config.model)
    flops = parts["text"] + parts["text_keys_values"] + len(kept) * rows * parts["unet"]
    return {"steps": len(kept), "rows": rows, "gflop_per_picture": flops / 1e9}


def as_text(report: dict[str, Any]) -> str:
    """Formats the table of all models, one line for each guidance scale."""
    has_shares = any("colour" in row for row in _figure_rows(report))
    head = f"{'model':<16}{'scale':>6}{'steps':>6}{'rows':>5}{'GFLOP':>10}"
    head += f"{'mse':>9}{'edges':>7}"
    if has_shares:
        head += f"{'colour':>8}{'shape':>7}{'background':>12}"
    lines = [head]
    for model in report["models"]:
        for scale, found in model["figures"].items():
            line = f"{model['name']:<16}{scale or '-':>6}{model['steps']:>6}"
            line += f"{model['rows']:>5}{model['gflop_per_picture']:>10,.3f}"
            line += f"{found['mse']:>9.4f}"
            line += f"{found['edges']:>7.2f}" if "edges" in found else f"{'-':>7}"
            if "colour" in found:
                line += f"{found['colour']:>8.1%}{found['shape']:>7.1%}"
                line += f"{found['background']:>12.1%}"
            lines.append(line)
    lines += [
        f"{report['wall_seconds']:.1f} seconds in all, with the comparisons",
        "mse: from the teacher's picture of the same noise; edges: their contrast over "
        "that of the original",
    ]
    return "\n".join(lines)


def _figure_rows(report: dict[str, Any]) -> list[dict[str, float]]:
    return [found for model in report["models"] for found in model["figures"].values()]


def write(chains: list[Chain], root: pathlib.Path, done: Ledger) -> dict[str, Any]:
    """Writes both files under `root`; returns the content of report.json."""
    report = make_report(chains, done)
    files.write_json(root / "report.json", report)
    sections = [_section(chain, root, report) for chain in chains]
    sheet = contact_sheet.draw_contact_sheet(
        "Teachers and students",
        "Pictures of one row start from the same noise and have the same caption. mse "
        "is the squared distance from the teacher's picture, pixels from -1 to 1.",
        sections,
    )
    Image.fromarray(sheet).save(root / "samples.png")
    logging.info("written: %s and %s", root / "report.json", root / "samples.png")
    return report


def _section(
    chain: Chain, root: pathlib.Path, report: dict[str, Any]
) -> contact_sheet.Section:
    role = chain.request.role
    names = [f"{role}_teacher", *(stage.name for stage in chain.stages)]
    scale = _shown_scale(chain)
    by_name = {model["name"]: model for model in report["models"]}
    titles = []
    for name in names:
        model = by_name[name]
        mse = model["figures"][_key(scale)]["mse"]
        rows = "" if model["rows"] == 1 else f" x {model['rows']} rows"
        titles.append(f"{name}\n{model['steps']} steps{rows}\nmse {mse:.4f}")
    columns = [_read(root, name, scale) for name in names]
    path = root / "pictures" / f"{role}_captions.json"
    captions = files.read_json(path)["captions"]
    note = "" if scale is None else f"Classifier-free guidance at scale {scale:g}."
    return contact_sheet.Section(
        "Base model" if role == "base" else "Upsampler",
        note,
        titles,
        [
            (caption, [column[i] for column in columns])
            for i, caption in enumerate(captions)
        ],
    )


def _key(scale: float | None) -> str:
    return "" if scale is None else f"{scale:g}"


def _path(root: pathlib.Path, name: str, scale: float | None) -> pathlib.Path:
    suffix = "" if scale is None else f"_scale_{scale:g}"
    return root / "pictures" / f"{name}{suffix}.npz"


def _save(
    root: pathlib.Path, name: str, scale: float | None, drawn: np.ndarray
) -> None:
    np.savez_compressed(_path(root, name, scale), drawn=drawn)


def _read(root: pathlib.Path, name: str, scale: float | None) -> np.ndarray:
    path = _path(root, name, scale)
    if not path.is_file():
        raise UserError(
            f"{path} is missing, and the comparison needs it; restore it, or use "
            "another --output"
        )
    with np.load(path) as file:
        return file["drawn"]

"""Reference batches: what real pictures look like to an extractor, in one file.

arr_0            uint8 (N, px, px, 3); ours only where asked for
mu, sigma        mean (d,) and covariance (d, d) of the pool features, float64
mu_s, sigma_s    of the spatial features, where the extractor has them
pool             float32 (N, d), ours: what KID, precision and recall compare
glide_jax        text, ours: a JSON object that names extractor, px, source and protocol

OpenAI's evaluator reads such a file, and takes mu, sigma, mu_s and sigma_s from it as
statistics of its own features. So they have these names only for `inception_tf1`, whose
features are the evaluator's. Of another extractor they are EXTRACTOR_mu and so on, and
the evaluator computes statistics of arr_0. Files of an earlier version have mu and
sigma for every extractor; their record tells which one.

The paper's protocol (GLIDE, appendix A.2): the whole validation set, centre-cropped.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from glide_jax.data import sources
from glide_jax.errors import UserError
from glide_jax.eval import (
    extractors,
    feature_cache,
    feature_passes,
    npz_files,
    picture_sets,
    running_stats,
)
from glide_jax.runtime import paths

RECORD = "glide_jax"
PROTOCOL = "centre crop"
_STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
_EVALUATORS = "inception_tf1"
# Whose statistics a file without a record holds: OpenAI's evaluator writes spatial ones
# and resizes as TensorFlow 1 did, pytorch-fid writes none.
_THEIRS = {True: _EVALUATORS, False: "inception"}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Real pictures as an extractor sees them.

    Attributes:
      pool: Of the pool features.
      spatial: Of the spatial ones; None: the file has none.
      rows: Pool features (N, d) themselves; None: the file has statistics only.
      record: What the file says of itself, with its path and `npz_files.digest`.
    """

    pool: running_stats.Gaussian
    spatial: running_stats.Gaussian | None
    rows: np.ndarray | None
    record: dict[str, Any]


def build(
    pictures: picture_sets.PictureSet,
    extractor: extractors.Extractor,
    path: pathlib.Path,
    *,
    keep_images: bool,
    batch_size: int,
    on_part: feature_passes.OnPart,
) -> dict[str, Any]:
    """Writes a reference of all the pictures; cut off, it goes on where it was.

    Returns:
      The record in the file.

    Raises:
      UserError: Fewer than two pictures that can be read, work begun with other
          settings, or a file that cannot be written.
    """
    asked = {
        "extractor": extractor.name,
        "digest": extractor.digest,
        "px": pictures.px,
        "protocol": PROTOCOL,
        **pictures.record,
    }
    kept = feature_cache.FeatureCache(
        path.with_name(f"{path.name}.parts"), {**asked, "keep_images": keep_images}
    )
    judges = feature_passes.Judges(
        extractor, keep_pixels=pictures.count if keep_images else 0
    )
    feature_passes.collect(
        pictures, judges, kept, batch_size=batch_size, on_part=on_part
    )
    pool = feature_passes.gaussian_of(kept, "pool")
    name = extractor.name
    record = {
        **asked,
        "count": pool.count,
        "unreadable": pictures.count - pool.count,
    }
    arrays: dict[str, Any] = {RECORD: np.array(json.dumps(record))}
    arrays |= {_own("mu", name): pool.mu, _own("sigma", name): pool.sigma}
    if kept.has("spatial"):
        spatial = feature_passes.gaussian_of(kept, "spatial")
        arrays |= {_own("mu_s", name): spatial.mu, _own("sigma_s", name): spatial.sigma}
    rows = (pool.count, len(pool.mu))
    arrays["pool"] = npz_files.Streamed(rows, "float32", kept.blocks("pool"))
    if keep_images:
        arrays["arr_0"] = streamed_pixels(kept, pool.count, pictures.px)
    npz_files.write(path, arrays)
    kept.remove()
    return record


def streamed_pixels(
    kept: feature_cache.FeatureCache, count: int, px: int
) -> npz_files.Streamed:
    """The pictures that were kept, as arr_0 of a file."""
    return npz_files.Streamed((count, px, px, 3), "uint8", kept.blocks("pixels"))


def read(
    path: str | pathlib.Path,
    extractor: extractors.Extractor,
    px: int,
    *,
    batch_size: int = extractors.BATCH_SIZE,
) -> Reference:
    """A reference that was made for this extractor, of pictures of this size.

    Where a file has pictures and lacks features, the extractor looks at the pictures.

    Raises:
      UserError: Not such a file; another resolution; another extractor, by name or
          by digest, and no pictures to look at anew.
    """
    path = paths.local_text(path, "reference")
    names = npz_files.names(path)
    arrays = npz_files.read_small(path, but=("arr_0",))
    record = _record(path, arrays)
    arrays = _plainly_named(arrays, record["extractor"])
    images = picture_sets.Saved(path) if "arr_0" in names else None
    _check_px(path, images.px if images else record.get("px"), px)
    is_ours = _is_of(record, extractor)
    if not is_ours and images is None:
        raise UserError(
            f"{path} was made with {_named(record)} and features are "
            f"{extractor.name} {extractor.digest}; build one with these: glide "
            "evaluate reference"
        )
    if images is not None and (not is_ours or "pool" not in arrays):
        return _looked_at(images, extractor, batch_size, arrays, record, is_ours)
    return Reference(
        _gaussian(path, arrays, "mu", "sigma", record),
        _gaussian(path, arrays, "mu_s", "sigma_s", record)
        if "mu_s" in arrays
        else None,
        arrays.get("pool"),
        record,
    )


def _looked_at(
    images: picture_sets.Saved,
    extractor: extractors.Extractor,
    batch_size: int,
    arrays: dict[str, np.ndarray],
    record: dict[str, Any],
    is_ours: bool,
) -> Reference:
    """Features of the pictures; statistics of the file's own where they are ours."""
    rows, pool, spatial = [], None, None
    for first in range(0, images.count, batch_size):
        seen = extractor(images.read(first, first + batch_size).pixels)
        rows.append(seen.pool)
        pool = pool or running_stats.RunningMoments(seen.pool.shape[1])
        pool.add(seen.pool)
        if seen.spatial is not None:
            spatial = spatial or running_stats.RunningMoments(seen.spatial.shape[1])
            spatial.add(seen.spatial)
    path = record["path"]
    record = {
        **record,
        "extractor": extractor.name,
        "digest": extractor.digest,
        "count": images.count,
    }
    pool, spatial = pool.gaussian(), spatial and spatial.gaussian()
    if is_ours and "mu" in arrays:
        # The evaluator compares with the statistics in the file.
        pool = _gaussian(path, arrays, "mu", "sigma", {})
    if is_ours and "mu_s" in arrays:
        spatial = _gaussian(path, arrays, "mu_s", "sigma_s", {})
    return Reference(pool, spatial, np.concatenate(rows), record)


def _own(name: str, extractor: str) -> str:
    """The name of a statistic of this extractor's features in a file."""
    return name if extractor == _EVALUATORS else f"{extractor}_{name}"


def _plainly_named(
    arrays: Mapping[str, np.ndarray], extractor: str | None
) -> dict[str, np.ndarray]:
    """The arrays, with the statistics of this extractor as mu, sigma and so on."""
    plain = {_own(name, str(extractor)): name for name in _STATISTICS}
    return {plain.get(name, name): array for name, array in arrays.items()}


def _record(path: str | pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the file says of itself; of a foreign one what can be told."""
    file = {"path": str(path), "file_digest": npz_files.digest(path)}
    if RECORD not in arrays:
        theirs = _THEIRS["mu_s" in arrays] if "mu" in arrays else None
        return {**file, "extractor": theirs}
    try:
        record = dict(json.loads(str(arrays[RECORD])))
        is_whole = isinstance(record["extractor"], str)
        is_whole &= all(isinstance(record[name], int) for name in ("px", "count"))
    except (ValueError, TypeError, KeyError):
        is_whole = False
    if not is_whole:
        raise UserError(
            f"{path}: its record {RECORD} is not what glide evaluate reference writes; "
            "build it again"
        )
    return {**record, **file}


def _check_px(path: str | pathlib.Path, theirs: int | None, ours: int) -> None:
    if theirs is not None and theirs != ours:
        raise UserError(
            f"{path} is of {theirs} px pictures and these are {ours} px; build one "
            f"with glide evaluate reference --px={ours}"
        )


def _is_of(record: dict[str, Any], extractor: extractors.Extractor) -> bool:
    # A foreign file names no digest: there is one Inception of this field.
    return record["extractor"] == extractor.name and record.get("digest") in (
        None,
        extractor.digest,
    )


def _named(record: dict[str, Any]) -> str:
    return f"{record['extractor'] or 'no features'} {record.get('digest', '')}".strip()


def _gaussian(
    path: str | pathlib.Path,
    arrays: dict[str, np.ndarray],
    mean: str,
    covariance: str,
    record: dict[str, Any],
) -> running_stats.Gaussian:
    mu, sigma = arrays.get(mean), arrays.get(covariance)
    if mu is None or sigma is None or sigma.shape != (*mu.shape, *mu.shape):
        raise UserError(
            f"{path} lacks {mean} and {covariance} of one size, and pictures to make "
            "them of (arr_0); give a reference batch or a sample batch"
        )
    is_number = mu.ndim == 1 and mu.dtype.kind == sigma.dtype.kind == "f"
    if not is_number or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(
            f"{path}: {mean} and {covariance} are not finite numbers; build it again"
        )
    return running_stats.Gaussian(
        mu.astype(np.float64), sigma.astype(np.float64), record.get("count", 0)
    )


def open_pictures(
    spec: str, px: int, most: int | None = None
) -> picture_sets.PictureSet:
    """The pictures of a data source, a folder or a .npz file.

    A folder is read as the source folder:DIR; one of `glide sample`, with samples.json,
    as that lists its pictures. No picture needs a caption.

    Args:
      spec: The name.
      px: The side of the pictures; those of a file are not resized.
      most: The first so many; None: all.

    Raises:
      UserError: None of them, or pictures of another side.
    """
    if sources.is_spec(spec):
        return picture_sets.Real(spec, px, most, captions_required=False)
    place = paths.local_path(spec, "--source")
    if place.is_dir() and not (place / "samples.json").is_file():
        return picture_sets.Real(f"folder:{place}", px, most, captions_required=False)
    if not (place.is_dir() or place.suffix == ".npz"):
        raise UserError(
            f"--source={spec} is not a folder, a .npz file or a data source; give a "
            f"path, or one of {sources.forms()}"
        )
    if place.is_dir():
        found = picture_sets.Folder(place, None, "--source")
    else:
        found = picture_sets.Saved(place)
    if found.px != px:
        raise UserError(
            f"--source={spec} holds pictures of {found.px} px and --px={px}; they are "
            f"not resized, give --px={found.px}"
        )
    found.count = min(found.count, most or found.count)
    found.record = {**found.record, "count": found.count}
    return found

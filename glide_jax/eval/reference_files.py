"""Reference batches: features of real pictures, in one file.

arr_0            uint8 (N, px, px, 3); in ours only if requested
mu, sigma        mean (d,) and covariance (d, d) of the pool features, float64
mu_s, sigma_s    of the spatial features, if the extractor has them
pool             float32 (N, d), only in ours: for KID, precision and recall
glide_jax        text, only in ours: JSON with extractor, px, source and protocol

OpenAI's evaluator reads such a file, and takes mu, sigma, mu_s and sigma_s as
statistics of its own features. So only `inception_tf1`, whose features are the
evaluator's, has these names. Those of another extractor are EXTRACTOR_mu and so on, and
the evaluator computes its own statistics of arr_0.

The paper's protocol (GLIDE, appendix A.2): the whole validation set, centre-cropped.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from glide_jax.data import source_kinds
from glide_jax.errors import UserError
from glide_jax.eval import (
    extractors,
    feature_cache,
    feature_passes,
    npz_files,
    picture_sets,
    running_stats,
)
from glide_jax.parallel import sharing
from glide_jax.runtime import paths

RECORD = "glide_jax"
PROTOCOL = "centre crop"
_STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
_EVALUATORS = "inception_tf1"
# The extractor of a file without a record, by whether it has spatial statistics:
# OpenAI's evaluator writes them and resizes as TensorFlow 1 did, pytorch-fid does not.
_FOREIGN = {True: _EVALUATORS, False: "inception"}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Features of real pictures.

    Attributes:
      pool: Statistics of the pool features.
      spatial: Statistics of the spatial features; None: the file has none.
      rows: Pool features (N, d) themselves; None: the file has statistics only.
      record: The file's own record, with its path and `npz_files.digest`.
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
    on_batch: feature_passes.OnBatch,
) -> dict[str, Any]:
    """Writes a reference of all pictures; an interrupted call continues.

    Args:
      pictures: The real pictures.
      extractor: Extracts their features.
      path: The file to write.
      keep_images: Whether to store the pictures, too.
      batch_size: Pictures at once.
      on_batch: Called with the number of pictures of each batch.

    Returns:
      The record in the file; on other processes than process 0, which writes it, only
      the settings.

    Raises:
      UserError: Fewer than two pictures can be read, an interrupted call had other
        settings, or the file cannot be written.
    """
    settings = {
        "extractor": extractor.name,
        "digest": extractor.digest,
        "px": pictures.px,
        "protocol": PROTOCOL,
        **pictures.record,
    }
    cache = feature_passes.open_cache(
        path.with_name(f"{path.name}.parts"), {**settings, "keep_images": keep_images}
    )
    networks = feature_passes.Networks(
        extractor, keep_pixels=pictures.count if keep_images else 0
    )
    feature_passes.collect(
        pictures, networks, cache, batch_size=batch_size, on_batch=on_batch
    )
    if not sharing.is_first():
        return settings
    pool = cache.gaussian("pool")
    name = extractor.name
    unreadable = pictures.count - pool.count
    record = {**settings, "count": pool.count, "unreadable": unreadable}
    arrays: dict[str, Any] = {RECORD: np.array(json.dumps(record))}
    arrays |= {_own("mu", name): pool.mu, _own("sigma", name): pool.sigma}
    if cache.has("spatial"):
        spatial = cache.gaussian("spatial")
        arrays |= {_own("mu_s", name): spatial.mu, _own("sigma_s", name): spatial.sigma}
    shape = (pool.count, len(pool.mu))
    arrays["pool"] = npz_files.Streamed(shape, "float32", cache.blocks("pool"))
    if keep_images:
        arrays["arr_0"] = streamed_pixels(cache, pool.count, pictures.px)
    npz_files.write(path, arrays)
    cache.remove()
    return record


def streamed_pixels(
    cache: feature_cache.FeatureCache, count: int, px: int
) -> npz_files.Streamed:
    """Returns the stored pictures, as arr_0 of a file."""
    return npz_files.Streamed((count, px, px, 3), "uint8", cache.blocks("pixels"))


def read(
    path: str | pathlib.Path,
    extractor: extractors.Extractor,
    px: int,
    *,
    batch_size: int = extractors.BATCH_SIZE,
) -> Reference:
    """Reads a reference of this extractor, of pictures of this size.

    If the file has pictures and lacks features, these are extracted.

    Args:
      path: The file, ours or another one of this layout.
      extractor: The extractor of the compared pictures.
      px: Side of the compared pictures.
      batch_size: Pictures at once.

    Raises:
      UserError: The file is invalid, of another resolution, or of another extractor,
        by name or by digest, without pictures.
    """
    path = paths.local_text(path, "reference")
    names = npz_files.names(path)
    arrays = npz_files.read_small(path, but=("arr_0",))
    record = _record(path, arrays)
    arrays = _rename_statistics(arrays, record["extractor"])
    images = picture_sets.Saved(path) if "arr_0" in names else None
    _check_px(path, images.px if images else record.get("px"), px)
    is_current = _is_of(record, extractor)
    if not is_current and images is None:
        raise UserError(
            f"{path} was made with {_named(record)} and --features are "
            f"{extractor.name} {extractor.digest}; build another by glide evaluate "
            "reference"
        )
    if images is not None and (not is_current or "pool" not in arrays):
        return _extract_all(images, extractor, batch_size, arrays, record, is_current)
    return Reference(
        _gaussian(path, arrays, "mu", "sigma", record),
        _gaussian(path, arrays, "mu_s", "sigma_s", record)
        if "mu_s" in arrays
        else None,
        arrays.get("pool"),
        record,
    )


def _extract_all(
    images: picture_sets.Saved,
    extractor: extractors.Extractor,
    batch_size: int,
    arrays: dict[str, np.ndarray],
    record: dict[str, Any],
    is_current: bool,
) -> Reference:
    """Extracts the features of the pictures; the file's own statistics are kept."""
    rows, spatial_moments = [], None
    for first in range(0, images.count, batch_size):
        features = extractor(images.read(first, first + batch_size).pixels)
        rows.append(features.pool)
        if features.spatial is not None:
            width = features.spatial.shape[1]
            spatial_moments = spatial_moments or running_stats.RunningMoments(width)
            spatial_moments.add(features.spatial)
    moments = running_stats.RunningMoments(rows[0].shape[1])
    for block in rows:
        moments.add(block)
    path = record["path"]
    record = {
        **record,
        "extractor": extractor.name,
        "digest": extractor.digest,
        "count": images.count,
    }
    pool = moments.gaussian()
    spatial = spatial_moments.gaussian() if spatial_moments else None
    if is_current and "mu" in arrays:
        # The evaluator compares with the statistics in the file.
        pool = _gaussian(path, arrays, "mu", "sigma", {})
    if is_current and "mu_s" in arrays:
        spatial = _gaussian(path, arrays, "mu_s", "sigma_s", {})
    return Reference(pool, spatial, np.concatenate(rows), record)


def _own(name: str, extractor: str) -> str:
    """Returns the name in a file of a statistic of this extractor's features."""
    return name if extractor == _EVALUATORS else f"{extractor}_{name}"


def _rename_statistics(
    arrays: Mapping[str, np.ndarray], extractor: str | None
) -> dict[str, np.ndarray]:
    """Renames the statistics of this extractor to mu, sigma and so on."""
    plain = {_own(name, str(extractor)): name for name in _STATISTICS}
    return {plain.get(name, name): array for name, array in arrays.items()}


def _record(path: str | pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the record of a file; that of another program's file is derived."""
    file = {"path": str(path), "file_digest": npz_files.digest(path)}
    if RECORD not in arrays:
        theirs = _FOREIGN["mu_s" in arrays] if "mu" in arrays else None
        return {**file, "extractor": theirs}
    record: dict[str, Any] = {}
    try:
        record = dict(json.loads(str(arrays[RECORD])))
        is_whole = isinstance(record["extractor"], str)
        is_whole &= all(isinstance(record[name], int) for name in ("px", "count"))
    except (ValueError, TypeError, KeyError):
        is_whole = False
    if not is_whole:
        raise UserError(
            f"{path}: its record {RECORD} is not one of glide evaluate reference; "
            "build it again"
        )
    return {**record, **file}


def _check_px(path: str | pathlib.Path, theirs: int | None, ours: int) -> None:
    if theirs is not None and theirs != ours:
        raise UserError(
            f"{path} is of pictures of {theirs} px, not {ours} px; build one "
            f"with glide evaluate reference --px={ours}"
        )


def _is_of(record: dict[str, Any], extractor: extractors.Extractor) -> bool:
    # Files of other programs have no digest; all use the same Inception.
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
            f"{path} lacks {mean} and {covariance} of one size, and pictures (arr_0) "
            "to compute them; give a reference batch or a sample batch"
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
    """Opens the pictures of a data source, a folder or a .npz file.

    A folder is read as the source folder:DIR, one of `glide sample` as its samples.json
    lists the pictures. Captions are not needed.

    Args:
      spec: The value of --source.
      px: The side of the pictures; those of a file are not resized.
      most: The maximum number of pictures; None: all.

    Raises:
      UserError: `spec` is none of these, or the pictures have another side.
    """
    if source_kinds.is_spec(spec):
        return picture_sets.Real(spec, px, most, captions_required=False)
    place = paths.local_path(spec, "--source")
    if place.is_dir() and not (place / "samples.json").is_file():
        return picture_sets.Real(f"folder:{place}", px, most, captions_required=False)
    if not (place.is_dir() or place.suffix == ".npz"):
        raise UserError(
            f"--source={spec} is not a folder, a .npz file or a data source; give a "
            f"path, or one of {source_kinds.forms()}"
        )
    if place.is_dir():
        pictures = picture_sets.Folder(place, None, "--source")
    else:
        pictures = picture_sets.Saved(place)
    if pictures.px != px:
        raise UserError(
            f"--source={spec} has pictures of {pictures.px} px, not of --px={px}; they "
            f"are not resized, give --px={pictures.px}"
        )
    pictures.count = min(pictures.count, most or pictures.count)
    pictures.record = {**pictures.record, "count": pictures.count}
    return pictures

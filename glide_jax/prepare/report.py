"""The manifest, the data card and the contact sheets of a preparation."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import glide_jax
from glide_jax.config import preparation
from glide_jax.prepare import job, rules, shards
from glide_jax.runtime import files, ledger

SCHEMA = 1
# Packages that decide about bytes of the output.
_VERSIONS = ("apache-beam", "numpy", "pillow", "pyarrow", "py3langid", "scikit-learn")


def write(
    work: job.Job, stages: ledger.Ledger, chosen: dict[str, Any]
) -> dict[str, Any]:
    """Writes the metadata of records, the card, and last the manifest."""
    records = [files.read_json(path) for path in sorted(work.shards.glob("*.json"))]
    dropped = dict(chosen["dropped"])
    lost = [tuple(drop) for record in records for drop in record["lost"]]
    if lost:
        dropped[rules.LOST] = len(lost)
    lengths = [record["pairs"] for record in records]
    manifest = {
        "schema": SCHEMA,
        "settings": json.loads(preparation.to_json(work.config)),
        "pairs_read": chosen["pairs"],
        "pairs_kept": sum(lengths),
        "dropped": dropped,
        "shards": [
            {"pairs": record["pairs"], "files": record["files"]} for record in records
        ],
        "sha256": shards.total_digest(records),
        "versions": {"glide_jax": glide_jax.__version__, **_versions()},
    }
    files.write_json(work.output / job.MANIFEST, manifest)
    return manifest


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONS}

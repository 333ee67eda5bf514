"""The manifest and the data card of a preparation."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow.parquet

import glide_jax
from glide_jax.config import preparation
from glide_jax.data import record_shards
from glide_jax.prepare import job, rules, scores, shards, sheets
from glide_jax.runtime import files, ledger, wording

SCHEMA = 1
# Packages that decide about the bytes of the output.
_VERSIONS = ("apache-beam", "numpy", "pillow", "pyarrow", "py3langid", "scikit-learn")


def write(
    work: job.Job,
    stages: ledger.Ledger,
    chosen: dict[str, Any],
    columns: scores.Columns,
) -> dict[str, Any]:
    """Writes the contact sheets, the card, and last the manifest; returns it."""
    records = [files.read_json(path) for path in sorted(work.shards.glob("*.json"))]
    dropped = dict(chosen["dropped"])
    lost = [drop for record in records for drop in record["lost"]]
    if lost:
        dropped[rules.LOST] = len(lost)
    lengths = [record["pairs"] for record in records]
    manifest = {
        "schema": SCHEMA,
        "settings": json.loads(preparation.to_json(work.config)),
        "pairs_read": chosen["pairs"],
        "pairs_kept": sum(lengths),
        "dropped": dropped,
        "lost": lost,
        "classifiers": {
            name: stages.result(f"classifier {name}")
            for name in scores.names(work.config)
        },
        "shards": [
            {"pairs": record["pairs"], "files": record["files"]} for record in records
        ],
        "sha256": shards.total_digest(records),
        "versions": {"glide_jax": glide_jax.__version__, **_versions()},
    }
    if work.config.output.format == "array_record":
        record_shards.write_metadata(
            shards.records_folder(work),
            work.config.output,
            record_shards.features(shards.columns_of(shards.EMPTY, columns)),
            lengths,
            f"{manifest['pairs_kept']} pairs of glide data prepare",
        )
    for draft in work.output.rglob(".*.tmp"):  # of killed workers
        draft.unlink(missing_ok=True)
    sheets.write_all(work, chosen["dropped"])
    files.write_text(work.output / job.CARD, card(work, manifest))
    files.write_json(work.output / job.MANIFEST, manifest)
    return manifest


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONS}


def card(work: job.Job, manifest: dict[str, Any]) -> str:
    """The data card, in Markdown."""
    kept, read = manifest["pairs_kept"], manifest["pairs_read"]
    config = work.config
    lines = [
        f"# {kept:,} of {wording.counted(read, 'pair')}",
        "",
        "Made by `glide data prepare`. Training reads it by",
        f"`--config.data.sources={shards.spec(config, work.output)}`.",
        "",
        "## Sources",
        "",
        *(f"- `{spec}`" for spec in config.data.sources),
        *(f"- held out: `{spec}`" for spec in config.data.validation_sources),
        "",
        "Files keep their bytes and their licences, which are those of the sources.",
        "",
        "## Dropped",
        "",
        "A pair is counted by the first rule that it breaks. `dropped/*.parquet` names"
        " each,",
        "`sheets/` shows a sample.",
        "",
        "| rule | pairs | share | meaning |",
        "|---|---|---|---|",
    ]
    for rule, count in manifest["dropped"].items():
        meaning = rules.RULES[rule.partition(":")[0]]
        lines.append(f"| {rule} | {count:,} | {count / read:.2%} | {meaning} |")
    lines += ["", "## Kept", "", "| | least | median | most |", "|---|---|---|---|"]
    sides, words, languages = _distributions(work)
    lines += [
        f"| {name} | {_spread(counts)} |"
        for name, counts in (("short side, pixels", sides), ("caption, words", words))
    ]
    if config.caption.languages:
        most = ", ".join(f"{code} {n:,}" for code, n in languages.most_common(10))
        lines += ["", f"Languages, as py3langid finds them: {most}."]
    if manifest["classifiers"]:
        lines += ["", "## Classifiers", "", *_classifier_lines(manifest["classifiers"])]
    lines += ["", "## Shards", ""]
    sizes = [shard["pairs"] for shard in manifest["shards"]]
    lines += [
        f"{wording.counted(len(sizes), 'shard')} of {min(sizes):,} to {max(sizes):,}"
        f" pairs in an order that is a function of seed {config.seed}.",
        f"SHA-256 of the digests of all files: {manifest['sha256']}",
        "",
        "## Settings",
        "",
        "```",
        *(f"{name} = {value!r}" for name, value in preparation.flat(config).items()),
        "```",
        "",
    ]
    return "\n".join(lines)


def _classifier_lines(found: dict[str, dict[str, Any]]) -> Iterable[str]:
    yield (
        "| classifier | examples | held-out positives missed | held-out negatives hit |"
    )
    yield "|---|---|---|---|"
    for name, result in found.items():
        examples = f"{result['positives']} and {result['negatives']}"
        missed = f"{result['false_negatives']} of {result['held_out_positives']}"
        hit = f"{result['false_positives']} of {result['held_out_negatives']}"
        yield f"| {name} | {examples} | {missed} | {hit} |"


def _distributions(work: job.Job) -> tuple[collections.Counter, ...]:
    """Counts of short sides, words and languages of the kept pairs."""
    sides, words, languages = (collections.Counter() for _ in range(3))
    names = ["width", "height", "num_words", "language"]
    for path in sorted(work.order.glob("*.parquet")):
        table = pyarrow.parquet.read_table(path, columns=names)
        width, height, num_words = (table.column(i).to_numpy() for i in range(3))
        sides.update(np.minimum(width, height).tolist())
        words.update(num_words.tolist())
        languages.update(table.column(3).to_pylist())
    return sides, words, languages


def _spread(counts: collections.Counter[int]) -> str:
    values = sorted(counts)
    middle, seen = counts.total() / 2, 0
    median = values[0]
    for median in values:
        seen += counts[median]
        if seen >= middle:
            break
    return f"{values[0]} | {median} | {values[-1]}"


def describe(manifest: dict[str, Any], output: pathlib.Path) -> list[str]:
    """The lines that the command prints at its end."""
    lines = [
        f"dropped, {rule}: {count:,} ({rules.RULES[rule.partition(':')[0]]})"
        for rule, count in manifest["dropped"].items()
    ]
    config = preparation.from_json(manifest["settings"])
    kept = wording.counted(manifest["pairs_kept"], "pair")
    lines.append(
        f"{kept} of {manifest['pairs_read']:,} in"
        f" {wording.counted(len(manifest['shards']), 'shard')}; use them with"
        f" '--config.data.sources={shards.spec(config, output)}'"
    )
    return lines

"""Batches from settings that are given one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

from glide_jax.data import pipeline, schema

ROW_FIELDS = {field.name for field in dataclasses.fields(pipeline.RowSettings)}
OF_STREAM = ("start_step", "on_bad", "faults_before")


def make_batches(
    source: schema.Source, tokenizer: schema.Tokenizer, **settings: Any
) -> pipeline.Batches:
    """`pipeline.make_batches` with the settings of rows and batches as keywords."""
    stream = {name: settings.pop(name) for name in OF_STREAM if name in settings}
    row = {name: settings.pop(name) for name in [*settings] if name in ROW_FIELDS}
    batch = pipeline.BatchSettings(pipeline.RowSettings(**row), **settings)
    return pipeline.make_batches(source, tokenizer, batch, **stream)

"""The local checkpoints of a run: where they are, and which continue the run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Collection, Mapping
from typing import Any

from glide_jax.checkpoint import lineage, local_tier, store
from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.errors import UserError
from glide_jax.parallel import distributed
from glide_jax.runtime import paths
from glide_jax.train import run_folder, train_state

# What a changed fact of the data makes of it: these follow data.sources.
_OF_SOURCES = ("records", "data_order")


def folder(config: Config, workdir: pathlib.Path) -> pathlib.Path:
    """The folder of a run's local checkpoints on this host.

    The default is the same after a restart on the same host, and differs by user and
    workdir.
    """
    given = config.checkpoint.local_dir
    if given:
        base = paths.local_path(given, "checkpoint.local_dir").absolute()
    else:
        base = pathlib.Path(tempfile.gettempdir(), f"glide_jax.{os.getuid()}", "local")
    digest = hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()
    return base / f"{workdir.absolute().name}-{digest[:12]}"


def open_tier(config: Config, workdir: pathlib.Path) -> local_tier.LocalTier | None:
    """The local checkpoints of a run; None if it makes none.

    Raises:
      UserError: a process cannot write to its folder.
    """
    every_steps = config.checkpoint.local_every_steps
    if every_steps:
        return local_tier.LocalTier(folder(config, workdir), workdir, every_steps)
    # Steps of this start would not be part of what the file describes.
    if distributed.process_id() == 0:
        (workdir / lineage.NAME).unlink(missing_ok=True)
    return None


def restore(
    tier: local_tier.LocalTier | None,
    checkpoints: store.CheckpointStore | None,
    targets: train_state.TrainState,
    config: Config,
    facts: Mapping[str, Any],
    allow_change: Collection[str],
) -> tuple[train_state.TrainState, Mapping[str, Any]] | None:
    """State and metadata of the newest local step, if it is newer than the store's.

    Args:
      tier: of the run; None: there is nothing to restore.
      checkpoints: the workdir's store; None if it has no checkpoint.
      targets: ShapeDtypeStructs with shardings.
      config: configuration of this start.
      facts: the metadata that `TrainingRun.save` adds to every checkpoint.
      allow_change: settings that may differ.
    """
    if tier is None:
        return None
    stored = None if checkpoints is None else checkpoints.newest()

    def check(step: int, meta: Mapping[str, Any]) -> str:
        if step >= config.train.num_steps:
            return f"is not before train.num_steps={config.train.num_steps}"
        return _refusal(meta, config, facts, allow_change)

    found = tier.restore(
        train_state.to_items(targets), stored[0] if stored else 0, check
    )
    if found is None:
        return None
    logging.info(
        "resumed at step %d from the local tier (the shared store has %s)",
        *(found.step, f"step {stored[0]}" if stored else "none"),
    )
    return train_state.from_items(found.items), found.meta


def _refusal(
    meta: Mapping[str, Any],
    config: Config,
    facts: Mapping[str, Any],
    allow_change: Collection[str],
) -> str:
    """Why a local step with this metadata is not of this run; "" if it is."""
    try:
        stored = resolve.from_json(json.dumps(meta["config"]))
    except (UserError, LookupError) as error:
        return f"has settings that cannot be read ({error})"
    changed = run_folder.refused_changes(stored, config, allow_change)
    if changed:
        return f"has other settings ({'; '.join(changed)})"
    for name in ("tokenizer_digest", "teacher_digest", *_OF_SOURCES):
        is_allowed = name in _OF_SOURCES and "data.sources" in allow_change
        if meta.get(name) != facts.get(name) and not is_allowed:
            return f"has another {name}"
    return ""

"""What lies in a run's folder, and how a run finds out what it continues.

    config.json   tokenizer/   checkpoints/   metrics.jsonl   tensorboard/   grids/

The configuration and the tokenizer lie there once; every checkpoint carries their
digests.
"""

from __future__ import annotations

import logging
import pathlib

from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.errors import UserError
from glide_jax.text import tokenizers

# Sections that say what the parameters mean; the others may change between restarts.
IDENTITY = ("seed", "model.", "diffusion.", "data.", "ema.decays", "train.timestep")


def checkpoints(workdir: pathlib.Path) -> pathlib.Path:
    """The folder of a run's checkpoints."""
    return workdir / "checkpoints"


def prepare(workdir: pathlib.Path) -> None:
    """Makes the folder, or says in one line why it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror}); "
            "name a folder that you may write"
        ) from error


def save_config(workdir: pathlib.Path, config: Config) -> None:
    """Writes config.json; refuses a folder that holds another model or data."""
    path = workdir / "config.json"
    if path.exists() and path.read_text() != resolve.to_json(config):
        differences = resolve.differences(load_config(workdir), config)
        changed = [line for line in differences if line.startswith(IDENTITY)]
        if changed:
            raise UserError(
                f"--workdir={workdir} holds another run: {'; '.join(changed)}; "
                "use a new folder, or the settings it was made with"
            )
        logging.info("settings changed since the last start: %s", differences)
    path.write_text(resolve.to_json(config))


def load_config(workdir: pathlib.Path) -> Config:
    """The configuration of a run."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"{workdir} has no config.json, so it is no workdir of `glide train`; "
            "name the folder that was given as --workdir"
        )
    return resolve.from_json(path.read_text())


def load_tokenizer(workdir: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokenizer of a run."""
    return tokenizers.load(workdir / "tokenizer")

"""JSON files that are whole or not there, whatever ends the program or the machine."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from glide_jax.errors import UserError


def write(path: pathlib.Path, value: Any) -> None:
    """Writes JSON values; the file appears under its name when it is on the disk.

    Raises:
      UserError: The file cannot be written.
    """
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            # Or a machine that goes down may leave the name with nothing in it.
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def read(path: pathlib.Path) -> Any:
    """What a file holds that `write` made.

    Raises:
      UserError: It is empty, damaged or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is no whole JSON file ({error}); remove it with what it belongs to"
        ) from error

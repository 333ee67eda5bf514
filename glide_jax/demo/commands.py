"""The works of the page, and the commands that draw the same pictures."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from glide_jax.demo import bundles
from glide_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Pictures that one call of `Glide` draws.

    Attributes:
      verb: "sample", "inpaint" or "edit".
      prompt: the caption.
      count: number of pictures.
      options: `SamplingOptions` that differ from the defaults; "seed" is always given.
      picture: uint8 (H, W, 3), the one that is changed, or None.
      known: bool (H, W), True = kept, or None.
      strength: of an edit.
      source_prompt: caption of `picture`, for inversion, or None.
      label: what distinguishes it from other works that are drawn with it.
    """

    verb: str
    prompt: str
    count: int
    options: dict[str, Any]
    picture: np.ndarray | None = None
    known: np.ndarray | None = None
    strength: float = 0.6
    source_prompt: str | None = None
    label: str = ""

    def __post_init__(self):
        """Raises UserError without a prompt."""
        if not self.prompt.strip():
            raise UserError("the prompt is empty; write what the picture shows")

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The pictures that the command reads, uint8 (H, W, 3), by its flags."""
        found = {}
        if self.picture is not None:
            found["image"] = self.picture
        if self.known is not None:
            white = np.where(self.known, 0, 255).astype(np.uint8)
            found["mask"] = np.repeat(white[..., None], 3, axis=-1)
        return found


def command(work: Work, models: bundles.Models, folder: str) -> str:
    """Returns the command that draws the pictures of a work again.

    Args:
      work: what was drawn.
      models: the models that drew it.
      folder: where its inputs are, as image.png and mask.png.
    """
    given: list[tuple[str, Any]] = [
        *models.bundles.flags(work.verb),
        *models.placement,
        *((name, f"{folder}/{name}.png") for name in work.inputs),
        ("prompt", work.prompt),
        ("num_images", work.count),
        *work.options.items(),
    ]
    if work.verb == "edit":
        given.append(("strength", work.strength))
    if work.source_prompt is not None:
        given.append(("source_prompt", work.source_prompt))
    given.append(("output", f"{folder}_again"))
    return _joined(["glide", work.verb, *(f"--{n}={_text(v)}" for n, v in given)])


def _text(value: Any) -> str:
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)  # the shortest text that is read as the same number


def _joined(words: Sequence[str]) -> str:
    """Returns a command for a shell, a flag in each line."""
    first, *flags = [shlex.join(words[:2]), *map(shlex.quote, words[2:])]
    return " \\\n    ".join([first, *flags])

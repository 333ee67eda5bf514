"""Draws a batch of rows by the methods that `glide sample` and its kin call."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from glide_jax.sample import cascade


@dataclasses.dataclass(frozen=True)
class Group:
    """What the rows of one batch have in common.

    Attributes:
      verb: "sample", "inpaint" or "edit", the method of `Glide`.
      size: height and width of the pictures that are changed; None without.
      options: the fields of `SamplingOptions` other than seed and first_index, sorted.
      strength: of an edit, or None.
      inverts: whether rows have source prompts.
    """

    verb: str
    options: tuple[tuple[str, Any], ...]
    size: tuple[int, int] | None = None
    strength: float | None = None
    inverts: bool = False


class Row(NamedTuple):
    """One picture to draw.

    Attributes:
      prompt: its caption.
      seed, index: the numbers of its noise, as of `glide sample`.
      picture: uint8 (H, W, 3), the one that is changed, or None.
      known: bool (H, W), True = kept, or None.
      source_prompt: caption of `picture`, or None.
    """

    prompt: str
    seed: int
    index: int
    picture: np.ndarray | None = None
    known: np.ndarray | None = None
    source_prompt: str | None = None


class Drawer:
    """Draws batches; a picture is that of `glide sample` of its seed and index.

    A batch is filled up to `batch_size`: in batches of one size a picture has the same
    bytes whatever its place and its neighbours, and one program serves a group.
    """

    def __init__(
        self,
        glide: cascade.Glide,
        batch_size: int,
        *,
        is_exact: bool = True,
        on_stage: Callable[[str, float], None] = lambda name, seconds: None,
    ):
        """Draws nothing yet.

        Args:
          glide: the models.
          batch_size: the number of rows of every batch.
          is_exact: fill batches up. Otherwise to the next power of two, which is faster
            for few rows, and a value may differ by a level or two from one batch to
            another.
          on_stage: called with the name and the seconds of each finished stage.
        """
        self._glide, self._batch_size = glide, batch_size
        self._is_exact, self._on_stage = is_exact, on_stage

    def __call__(
        self, group: Group, rows: list[Row], poll: Callable[[], None]
    ) -> list[np.ndarray]:
        """Returns the picture of each row, uint8 (H, W, 3).

        Calls `poll` in each segment of a stage; what it raises ends the batch.
        """
        filled = list(rows)
        if self._is_exact:
            filled += [rows[-1]] * (self._batch_size - len(rows))
        stages = self._timed_stages()

        def progress(finished: float | int) -> None:
            poll()
            if finished == 0:  # a stage begins
                next(stages)

        given: dict[str, Any] = {
            **dict(group.options),
            "batch_size": self._batch_size,
            "seeds": [(row.seed, row.index) for row in filled],
            "progress": progress,
        }
        prompts = [row.prompt for row in filled]
        if group.verb == "sample":
            drawn = self._glide.sample(prompts, **given)
        else:
            pictures = np.stack([_present(row.picture) for row in filled])
            if group.verb == "inpaint":
                masks = np.stack([_present(row.known) for row in filled])
                drawn = self._glide.inpaint(pictures, masks, prompts, **given)
            else:
                if group.inverts:
                    given["source_prompts"] = [row.source_prompt for row in filled]
                assert group.strength is not None
                given["strength"] = group.strength
                drawn = self._glide.edit(pictures, prompts, **given)
        next(stages, None)  # the last stage ends
        return list(drawn.images[: len(rows)])

    def _timed_stages(self) -> Iterator[None]:
        """Yields when a stage begins; going on from there, the stage ends."""
        names = ["base", "upsampler"][: self._glide.num_stages]
        for name in names:
            start = time.monotonic()
            yield
            self._on_stage(name, time.monotonic() - start)


def _present(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array

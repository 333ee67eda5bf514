"""Counts how pictures of the full shapes world fail their captions.

The words of a caption are the colour, shape and size of each object, the relation of
two objects or the place of one, and the ground. Objects of the picture are matched with
those of the caption so that most of their words are right, and among equal choices so
that the relation is. Every picture then has one of `OUTCOMES`, the first that fits.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from glide_jax.data import shapes_world
from glide_jax.errors import UserError
from glide_jax.eval import scene_reader

# In the order in which they are tried.
OUTCOMES: dict[str, str] = {
    "missing": "fewer objects than the caption names",
    "extra": "more objects than the caption names",
    "right": "every word is right",
    "moved": "only the relation, or the place of a single object, is wrong",
    "swapped": "each colour, shape and size of the caption occurs as often as there, "
    "but on other objects",
    "one word": "one word of an object or the ground is wrong",
    "more words": "several words are wrong",
}
KINDS = ("colour", "shape", "size")


class Comparison(NamedTuple):
    """What a picture shows of its caption.

    Attributes:
      outcome: of `OUTCOMES`.
      words: whether each word is right. The keys are "colour 1", "shape 1", "size 1",
        the same for object 2, "relation" (of one object "place"), "background", and
        "objects" for their number. A missing object's words are wrong.
    """

    outcome: str
    words: dict[str, bool]


def compare(scene: shapes_world.ShapeScene, image: np.ndarray) -> Comparison:
    """Compares a picture, uint8 (H, H, 3), with the scene of its caption."""
    return compare_seen(scene, scene_reader.read_picture(image))


def compare_seen(
    scene: shapes_world.ShapeScene, seen: scene_reader.SeenPicture
) -> Comparison:
    """Compares what is read from a picture with the scene of its caption."""
    words = max(
        (_words(scene, chosen) for chosen in _matchings(scene, seen.objects)),
        key=_rank,
    )
    words["background"] = seen.background == scene.background
    words["objects"] = len(seen.objects) == len(scene.objects)
    return Comparison(_outcome(scene, seen, words), words)


def _rank(words: dict[str, bool]) -> tuple[int, bool]:
    """Returns how many words of objects are right, and whether the place is."""
    *of_objects, is_placed = words.values()
    return sum(of_objects), is_placed


def _matchings(
    scene: shapes_world.ShapeScene, objects: Sequence[scene_reader.SeenObject]
) -> itertools.permutations[tuple[scene_reader.SeenObject | None, ...]]:
    """Returns every choice of objects of the picture for those of the caption."""
    count = len(scene.objects)
    padded = [*objects, *[None] * (count - len(objects))]
    return itertools.permutations(padded, count)


def _words(
    scene: shapes_world.ShapeScene, chosen: Sequence[scene_reader.SeenObject | None]
) -> dict[str, bool]:
    """Returns which words of the objects are right, and last the relation or place."""
    words = {
        f"{kind} {number}": seen is not None
        and getattr(seen, kind) == getattr(named, kind)
        for number, (named, seen) in enumerate(
            zip(scene.objects, chosen, strict=True), start=1
        )
        for kind in KINDS
    }
    present = [seen for seen in chosen if seen is not None]
    if len(present) < len(chosen):
        is_placed = False
    elif scene.relation:
        is_placed = scene_reader.relation_of(*present) == scene.relation
    else:
        is_placed = scene_reader.place_of(*present) == scene.place
    return words | {"relation" if scene.relation else "place": is_placed}


def _outcome(
    scene: shapes_world.ShapeScene,
    seen: scene_reader.SeenPicture,
    words: dict[str, bool],
) -> str:
    wrong = [word for word, is_right in words.items() if not is_right]
    if "objects" in wrong:
        return "missing" if len(seen.objects) < len(scene.objects) else "extra"
    if not wrong:
        return "right"
    if wrong in (["relation"], ["place"]):
        return "moved"
    is_bound = all(words[word] for word in words if word.split()[0] in KINDS)
    if not is_bound and all(
        collections.Counter(getattr(thing, kind) for thing in scene.objects)
        == collections.Counter(getattr(thing, kind) for thing in seen.objects)
        for kind in KINDS
    ):
        return "swapped"
    return "one word" if len(wrong) == 1 else "more words"


def score(images: np.ndarray, captions: Sequence[str]) -> dict[str, Any]:
    """Returns the shares of the outcomes and of the right words.

    Args:
      images: uint8 (N, H, H, 3), at least 32 pixels a side.
      captions: N captions of the full world, all with one object or all with two.

    Returns:
      {"n": N, "outcomes": {outcome: share}, whose sum is 1, "words": {word: share}},
      with the words of `Comparison`.

    Raises:
      UserError: There are no pictures, a caption is not of the full world, or captions
        of one object are mixed with those of two.
    """
    scenes = [shapes_world.parse_caption(text) for text in captions]
    if not scenes:
        raise UserError("no pictures are given; draw at least one")
    for scene in scenes:
        if not (scene.relation or scene.place):
            raise UserError(
                f"caption {shapes_world.caption(scene)!r} names no place; use captions "
                "of shapes:full"
            )
    if len({len(scene.objects) for scene in scenes}) > 1:
        raise UserError("captions of one object and of two are mixed; score them apart")
    found = [compare(*pair) for pair in zip(scenes, images, strict=True)]
    outcomes = collections.Counter(comparison.outcome for comparison in found)
    n = len(found)
    return {
        "n": n,
        "outcomes": {name: outcomes[name] / n for name in OUTCOMES},
        "words": {
            word: sum(comparison.words[word] for comparison in found) / n
            for word in found[0].words
        },
    }

"""Generates the embedded data set: captioned shapes, a function of (seed, index).

Two worlds. "quickstart": one object near the centre, 8 colours x 4 shapes x 2 sizes on
2 backgrounds, for a model that learns in minutes. "full": one or two objects at named
places, 8 colours x 4 shapes x 2 sizes on 4 backgrounds. In both, 8 of the 32 pairs of
colour and shape never occur in training. The first object of each picture of the split
"held_out" is such a pair, which measures generalisation.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from glide_jax.data import schema
from glide_jax.errors import UserError

T = TypeVar("T")
# RGB, at least 127 apart from each other and from every background of its world.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "orange": (255, 128, 0),
    "gray": (128, 128, 128),
}
SHAPES = ("circle", "square", "triangle", "cross")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "navy": (0, 0, 96),
    "brown": (96, 48, 24),
}
# Each colour once and each shape twice, so that training contains every word.
HELD_OUT_PAIRS: tuple[tuple[str, str], ...] = (
    ("red", "triangle"),
    ("green", "circle"),
    ("blue", "square"),
    ("yellow", "cross"),
    ("cyan", "triangle"),
    ("magenta", "circle"),
    ("orange", "square"),
    ("gray", "cross"),
)
SPLITS = ("train", "held_out")
# Diameter of the object as a fraction of the picture's side.
QUICKSTART_SIZES = {"small": 0.5, "large": 0.8}
FULL_SIZES = {"small": 0.22, "large": 0.42}
# Centre (x, y) of a single object of the full world.
PLACES: dict[str, tuple[float, float]] = {
    "in the top left": (0.25, 0.25),
    "at the top": (0.5, 0.25),
    "in the top right": (0.75, 0.25),
    "on the left": (0.25, 0.5),
    "in the center": (0.5, 0.5),
    "on the right": (0.75, 0.5),
    "in the bottom left": (0.25, 0.75),
    "at the bottom": (0.5, 0.75),
    "in the bottom right": (0.75, 0.75),
}
# Centre of the first object; the second is mirrored in the centre of the picture.
RELATIONS: dict[str, tuple[float, float]] = {
    "above": (0.5, 0.25),
    "below": (0.5, 0.75),
    "to the left of": (0.25, 0.5),
    "to the right of": (0.75, 0.5),
}
# Largest shift of an object from its place, as a fraction of the picture's side.
QUICKSTART_JITTER = 0.06
FULL_JITTER = 0.03
TWO_OBJECTS_PROB = 0.5
# Samples per pixel side, for soft edges.
SUPERSAMPLE = 4
# Arm of the cross as a fraction of its width.
CROSS_ARM = 0.36


@dataclasses.dataclass(frozen=True)
class ShapeObject:
    """One object by its words."""

    colour: str
    shape: str
    size: str


@dataclasses.dataclass(frozen=True)
class ShapeScene:
    """The content of a picture; scenes are equal if their captions are.

    Attributes:
      colour, shape, size, background: words of the first object and the background.
      place: words of `PLACES`; "" in the quickstart world and with two objects.
      relation, other: words of `RELATIONS` and the second object, else "" and None.
      offsets: (dx, dy) of each object, in fractions of the side; not in the caption.
    """

    colour: str
    shape: str
    size: str
    background: str
    place: str = ""
    relation: str = ""
    other: ShapeObject | None = None
    offsets: tuple[tuple[float, float], ...] = dataclasses.field(
        default=((0.0, 0.0), (0.0, 0.0)), compare=False
    )

    @property
    def objects(self) -> tuple[ShapeObject, ...]:
        """The first object and, if there is one, the other."""
        first = ShapeObject(self.colour, self.shape, self.size)
        return (first,) if self.other is None else (first, self.other)


def caption(scene: ShapeScene) -> str:
    """Returns the caption, e.g. "a small red circle on a black background"."""
    words = f"a {scene.size} {scene.colour} {scene.shape}"
    if scene.other is not None:
        other = scene.other
        words += f" {scene.relation} a {other.size} {other.colour} {other.shape}"
    elif scene.place:
        words += f" {scene.place}"
    return f"{words} on a {scene.background} background"


def _alternatives(words: tuple[str, ...]) -> str:
    return "|".join(words)


_OBJECT = rf"(small|large) ({_alternatives((*COLOURS,))}) ({_alternatives(SHAPES)})"
_CAPTION = re.compile(
    rf"a {_OBJECT}"
    rf"(?: ({_alternatives((*PLACES,))})"
    rf"| ({_alternatives((*RELATIONS,))}) a {_OBJECT})?"
    rf" on a ({_alternatives((*BACKGROUNDS,))}) background"
)


def parse_caption(text: str) -> ShapeScene:
    """Returns the scene of a caption; the inverse of `caption`.

    Raises:
      UserError: the text is not a caption of this world.
    """
    match = _CAPTION.fullmatch(text.strip().lower())
    if match is None:
        raise UserError(
            f"caption {text!r} is not of the shapes world; use e.g."
            ' "a small red circle on a black background"'
        )
    size, colour, shape, place, relation, *other, background = match.groups()
    second = ShapeObject(other[1], other[2], other[0]) if relation else None
    return ShapeScene(
        colour, shape, size, background, place or "", relation or "", second
    )


def _is_inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns whether points are in a shape in [-1, 1]^2; v points down."""
    if shape == "circle":
        return u * u + v * v <= 1.0
    square = (np.abs(u) <= 1.0) & (np.abs(v) <= 1.0)
    if shape == "square":
        return square
    if shape == "triangle":
        return square & (2.0 * np.abs(u) <= v + 1.0)
    if shape == "cross":
        return square & ((np.abs(u) <= CROSS_ARM) | (np.abs(v) <= CROSS_ARM))
    raise UserError(f"shape {shape!r} is unknown; use one of {SHAPES}")


def coverage(
    shape: str, centre: tuple[float, float], diameter: float, px: int
) -> np.ndarray:
    """Returns the share of each pixel that a shape covers, float32 (px, px).

    Args:
      shape: a word of `SHAPES`.
      centre: (x, y) of the shape's bounding square, in fractions of the side.
      diameter: side of the bounding square, in fractions of the picture's side.
      px: side of the picture.
    """
    points = (np.arange(px * SUPERSAMPLE, dtype=np.float32) + 0.5) / (px * SUPERSAMPLE)
    radius = np.float32(diameter / 2)
    u = (points - np.float32(centre[0])) / radius
    v = (points - np.float32(centre[1])) / radius
    inside = _is_inside(shape, u[None, :], v[:, None])
    inside = inside.reshape(px, SUPERSAMPLE, px, SUPERSAMPLE)
    counts = inside.view(np.uint8).sum(axis=3, dtype=np.uint8).sum(axis=1)
    return counts.astype(np.float32) / SUPERSAMPLE**2


def _placed_objects(
    scene: ShapeScene,
) -> list[tuple[ShapeObject, tuple[float, float], float]]:
    """Returns each object with its centre and diameter, in fractions of the side."""
    if scene.relation:
        x, y = RELATIONS[scene.relation]
        centres = [(x, y), (1.0 - x, 1.0 - y)]
    else:
        centres = [PLACES.get(scene.place, (0.5, 0.5))]
    is_quickstart = scene.other is None and not scene.place
    sizes = QUICKSTART_SIZES if is_quickstart else FULL_SIZES
    return [
        (thing, (x + dx, y + dy), sizes[thing.size])
        for thing, (x, y), (dx, dy) in zip(
            scene.objects, centres, scene.offsets, strict=False
        )
    ]


def render(scene: ShapeScene, px: int) -> np.ndarray:
    """Renders a scene as uint8 pixels (px, px, 3), with soft edges."""
    ground = np.array(BACKGROUNDS[scene.background], np.float32)
    picture = np.broadcast_to(ground, (px, px, 3))
    for thing, centre, diameter in _placed_objects(scene):
        share = coverage(thing.shape, centre, diameter, px)[..., None]
        colour = np.array(COLOURS[thing.colour], np.float32)
        picture = picture + share * (colour - picture)
    return (picture + 0.5).astype(np.uint8)


def _check_variant(variant: str) -> None:
    if variant not in ("quickstart", "full"):
        raise UserError(
            f"shapes world {variant!r} is unknown; use shapes:quickstart or shapes:full"
        )


def _backgrounds(variant: str) -> tuple[str, ...]:
    return ("black", "white") if variant == "quickstart" else tuple(BACKGROUNDS)


_ALL_PAIRS = tuple(itertools.product(COLOURS, SHAPES))
_TRAIN_PAIRS = tuple(pair for pair in _ALL_PAIRS if pair not in HELD_OUT_PAIRS)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


@dataclasses.dataclass(frozen=True)
class ShapesWorld:
    """A source of generated pictures; a record is a function of (seed, index).

    Attributes:
      variant: "quickstart" or "full".
      split: "train" or "held_out".
      seed: seed of all records.
      size_px: side of the pictures, pixels.
      length: number of records.
    """

    variant: str = "quickstart"
    split: str = "train"
    seed: int = 0
    size_px: int = 64
    length: int = 1 << 20

    def __post_init__(self) -> None:
        _check_variant(self.variant)
        if self.split not in SPLITS:
            raise UserError(
                f"split {self.split!r} of shapes:{self.variant} is unknown;"
                f" use one of {', '.join(SPLITS)}"
            )

    def __len__(self) -> int:
        return self.length

    def at_px(self, px: int) -> ShapesWorld:
        """Returns the same records at (px, px)."""
        return dataclasses.replace(self, size_px=px)

    def spec(self, index: int) -> ShapeScene:
        """Returns the scene of a record."""
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        is_train = self.split == "train"
        colour, shape = _pick(rng, _TRAIN_PAIRS if is_train else HELD_OUT_PAIRS)
        size = _pick(rng, tuple(QUICKSTART_SIZES))
        background = _pick(rng, _backgrounds(self.variant))
        place, relation, other = "", "", None
        if self.variant == "full":
            if rng.random() < TWO_OBJECTS_PROB:
                relation = _pick(rng, tuple(RELATIONS))
                other_pair = _pick(rng, _TRAIN_PAIRS)
                other = ShapeObject(*other_pair, _pick(rng, tuple(FULL_SIZES)))
            else:
                place = _pick(rng, tuple(PLACES))
        jitter = QUICKSTART_JITTER if self.variant == "quickstart" else FULL_JITTER
        offsets = tuple(
            (x, y) for x, y in rng.uniform(-jitter, jitter, (2, 2)).tolist()
        )
        return ShapeScene(
            colour, shape, size, background, place, relation, other, offsets
        )

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < self.length:
            raise IndexError(f"record {index} of {self!r}")
        scene = self.spec(int(index))
        key = f"shapes:{self.variant}/{self.split}/{index}"
        return schema.Example(render(scene, self.size_px), caption(scene), key)

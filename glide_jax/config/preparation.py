"""Every setting of `glide data prepare`: its default, values, unit and meaning.

A rule is off at the value that its comment names. Lists are tuples, because only tuples
can be overridden on the command line.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_collections

from glide_jax.config import resolve
from glide_jax.config.defaults import MAX_SEED
from glide_jax.config.setting import IDENTITY, check_values, setting
from glide_jax.errors import UserError

FORMATS = ("tar", "array_record")
# The perceptual hash is searched up to this distance, in bits of 64.
MAX_DISTANCE = 4


@dataclass(frozen=True)
class DataConfig:
    """The pairs that are read."""

    # data sources, each KIND:PLACE; see docs/inputs.md
    sources: tuple[str, ...] = setting((), IDENTITY)
    # sources of held-out pairs; pictures like theirs are dropped; (): none
    validation_sources: tuple[str, ...] = setting((), IDENTITY)


@dataclass(frozen=True)
class PictureConfig:
    """Rule 1: files and sizes. A file that cannot be decoded is always dropped."""

    min_px: int = setting(64, IDENTITY, low=0)  # least short side; 0: off
    max_px: int = setting(0, IDENTITY, low=0)  # largest long side; 0: off
    # largest width * height; more is a decompression bomb, which is not decoded
    max_pixels: int = setting(1 << 26, IDENTITY, low=1)
    # largest ratio of the sides, in both directions; 0: off (published: 2)
    max_aspect: float = setting(2.0, IDENTITY, low=0)
    # drops pictures of several frames; False: the first frame is used
    drop_animated: bool = setting(True, IDENTITY)


@dataclass(frozen=True)
class CaptionConfig:
    """Rule 2: captions. The first caption of a pair is read, and an empty one drops."""

    min_words: int = setting(2, IDENTITY, low=0)  # least number of words; 0: off
    # regular expressions, without regard to case; a caption in which one is found is
    # dropped; (): off
    boilerplate: tuple[str, ...] = setting(
        (
            r"\bimage may contain\b",
            r"https?://|\bwww\.",
            r"^\s*\S+\.(jpe?g|png|gif|webp|bmp|tiff?)\s*$",
            r"^\s*(img|dsc|dscn|image|photo|untitled)[\s_-]*\d*\s*$",
        ),
        IDENTITY,
    )
    # languages by ISO 639-1, e.g. ("en",), as py3langid finds them; (): off
    languages: tuple[str, ...] = setting((), IDENTITY)
    # probability above which another language is believed; short captions reach less
    min_confidence: float = setting(0.9, IDENTITY, low=0, high=1)
    # drops captions of more than so many kept pictures; 0: off
    max_pictures: int = setting(0, IDENTITY, low=0)


@dataclass(frozen=True)
class DuplicateConfig:
    """Rule 3: copies. Of copies the one with most pixels is kept, then the first."""

    # drops equal files, and files that decode to equal pixels
    exact: bool = setting(True, IDENTITY)
    # largest distance of perceptual hashes of near duplicates, bits; -1: off
    max_distance: int = setting(4, IDENTITY, low=-1, high=MAX_DISTANCE)
    # largest difference of a cell of their signatures, in levels of 256, which confirms
    # what the hash suggests (ours, measured: see docs/data_preparation.md)
    max_difference: int = setting(12, IDENTITY, low=0, high=255)


@dataclass(frozen=True)
class ClassifierConfig:
    """Rule 4: classifiers of pictures, trained from folders of examples."""

    # folders NAME with positives/ and negatives/; what is like the positives is
    # dropped; (): off
    examples: tuple[str, ...] = setting((), IDENTITY)
    # names of classifiers that only score and drop nothing, e.g. ("aesthetic",)
    only_score: tuple[str, ...] = setting((), IDENTITY)
    # features, e.g. clip:BUNDLE; see `glide help evaluate`
    extractor: str = setting("", IDENTITY)
    # share of held-out positives that a threshold may let through (published: 0.01)
    max_false_negatives: float = setting(0.01, IDENTITY, low=0, below=1)
    # penalty of the support vector machine (ours)
    penalty: float = setting(10.0, IDENTITY, above=0)


@dataclass(frozen=True)
class ScoreConfig:
    """Rule 5: columns beside the shards; size and words of the caption are always."""

    # bundle of a noised CLIP: adds clip_similarity, the cosine of picture and caption;
    # "": off
    clip: str = setting("", IDENTITY)


@dataclass(frozen=True)
class OutputConfig:
    """The shards."""

    # tar: as img2dataset writes; array_record: a data set of tensorflow_datasets
    format: str = setting("tar", IDENTITY, choices=FORMATS)
    # mean number of pairs of a shard; shards differ by one pair at most
    pairs_per_shard: int = setting(10_000, IDENTITY, low=1)
    # name of the data set in ArrayRecord files, letters, digits and underscores
    name: str = setting("pairs", IDENTITY)
    split: str = setting("train", IDENTITY)  # split or folder of the shards


@dataclass(frozen=True)
class PrepareConfig:
    """A preparation."""

    # seed of the order of the output, and of the samples on contact sheets
    seed: int = setting(0, IDENTITY, low=0, high=MAX_SEED)
    data: DataConfig = DataConfig()
    picture: PictureConfig = PictureConfig()
    caption: CaptionConfig = CaptionConfig()
    duplicates: DuplicateConfig = DuplicateConfig()
    classifiers: ClassifierConfig = ClassifierConfig()
    scores: ScoreConfig = ScoreConfig()
    output: OutputConfig = OutputConfig()


SECTIONS: dict[str, type] = {
    field.name: type(getattr(PrepareConfig(), field.name))
    for field in dataclasses.fields(PrepareConfig)
    if field.name != "seed"
}


def to_config_dict(config: PrepareConfig) -> ml_collections.ConfigDict:
    """Returns the settings as a nested, locked ConfigDict with tuples."""
    return ml_collections.ConfigDict(
        dataclasses.asdict(config), convert_dict=True
    ).lock()


def from_config_dict(config_dict: ml_collections.ConfigDict) -> PrepareConfig:
    """Returns the settings of a ConfigDict; missing keys take their defaults.

    Raises:
      UserError: an unknown key, a value of the wrong type, or one that is not allowed.
    """
    config = from_json(config_dict.to_dict())
    check_values("", config)
    for name in SECTIONS:
        check_values(f"{name}.", getattr(config, name))
    if not config.data.sources:
        raise UserError(
            "data.sources is empty; name the pairs to read, e.g."
            " --config.data.sources=webdataset:raw"
        )
    for pattern in config.caption.boilerplate:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"caption.boilerplate: {pattern!r} is not a regular expression"
                f" ({error}); correct it"
            ) from error
    return config


def from_json(nested: Mapping[str, Any]) -> PrepareConfig:
    """Returns the settings of the values of `to_json`; missing ones are the defaults.

    Raises:
      UserError: an unknown key, or a value of the wrong type.
    """
    return resolve.from_sections(PrepareConfig, nested, ("seed",), SECTIONS)


def to_json(config: PrepareConfig) -> str:
    """Returns indented JSON, the same for equal settings."""
    return json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"


def flat(config: PrepareConfig) -> dict[str, Any]:
    """The settings by dotted path, as values of JSON."""
    return resolve.flatten(json.loads(to_json(config)))

"""Rules 1, 2 and 4 for one pair: its facts decide whether it is dropped, and why.

A pair is dropped by the first rule that it breaks, in the order of RULES.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from glide_jax.config import preparation
from glide_jax.prepare import facts as facts_of
from glide_jax.runtime import wording

BROKEN, BOMB, CRASH = "broken", "decompression_bomb", "crash"
SMALL, LARGE, ASPECT, ANIMATED = "too_small", "too_large", "aspect", "animated"
NO_CAPTION, SHORT = "caption_missing", "caption_short"
BOILERPLATE, LANGUAGE = "caption_boilerplate", "caption_language"
CLASSIFIER = "classifier"  # followed by a colon and its name
VALIDATION = "validation"
SAME_BYTES, SAME_PIXELS, NEAR = "duplicate_bytes", "duplicate_pixels", "near_duplicate"
REPEATED = "caption_repeated"
LOST = "lost"
# In the order in which they are applied.
RULES = {
    CRASH: "its processing ended a worker or raised an unexpected error",
    BROKEN: "the record or its picture cannot be read",
    BOMB: "the picture has more than picture.max_pixels",
    NO_CAPTION: "the caption is missing, empty, not UTF-8, or too long",
    SMALL: "the short side is below picture.min_px",
    LARGE: "the long side is above picture.max_px",
    ASPECT: "the sides have a ratio above picture.max_aspect",
    ANIMATED: "the file has several frames",
    SHORT: "the caption has fewer than caption.min_words",
    BOILERPLATE: "the caption matches caption.boilerplate",
    LANGUAGE: "the caption is not in one of caption.languages",
    CLASSIFIER: "a classifier finds it like its positives",
    VALIDATION: "it is a near duplicate of a validation picture",
    SAME_BYTES: "another pair has the same picture file",
    SAME_PIXELS: "another pair has the same pixels",
    NEAR: "another pair has a near duplicate picture",
    REPEATED: "more than caption.max_pictures pictures have its caption",
    LOST: "it changed or vanished between reading and writing",
}


class Drop(NamedTuple):
    """Why a pair is dropped.

    Attributes:
      rule: one of RULES, or "classifier:NAME".
      detail: the value that broke the rule.
      other: index of the pair that is kept in its place, of the validation picture
        that it is like, or -1.
      other_key: the key of that pair, or "".
    """

    rule: str
    detail: str = ""
    other: int = -1
    other_key: str = ""


class PairRules:
    """The rules that need one pair only."""

    def __init__(
        self,
        config: preparation.PrepareConfig,
        thresholds: Sequence[tuple[str, float | None]] = (),
    ) -> None:
        """Prepares the rules.

        Args:
          config: the settings.
          thresholds: (name, threshold) for each column of `Facts.scores`; None for
            columns that drop nothing.
        """
        self._config = config
        self._thresholds = thresholds
        self._patterns = [
            re.compile(pattern, re.IGNORECASE) for pattern in config.caption.boilerplate
        ]

    def check(self, facts: facts_of.Facts) -> Drop | None:
        """Returns why a pair is dropped, or None."""
        return (
            self._fault(facts)
            or self._picture(facts)
            or self._caption(facts)
            or self._classifiers(facts)
        )

    def _fault(self, facts: facts_of.Facts) -> Drop | None:
        if not facts.fault:
            return None
        if facts.fault == facts_of.CRASH:
            return Drop(CRASH, facts.detail)
        if facts.fault == "decompression bomb":
            return Drop(BOMB, facts.detail)
        if facts.fault == "narrow image":
            return Drop(ASPECT, facts.detail)
        is_caption = facts.fault in facts_of.CAPTION_KINDS
        return Drop(NO_CAPTION if is_caption else BROKEN, facts.detail)

    def _picture(self, facts: facts_of.Facts) -> Drop | None:
        rule = self._config.picture
        short, long = sorted((facts.width, facts.height))
        size = f"{facts.width} x {facts.height}"
        if short < rule.min_px:
            return Drop(SMALL, size)
        if rule.max_px and long > rule.max_px:
            return Drop(LARGE, size)
        if rule.max_aspect and long > rule.max_aspect * short:
            return Drop(ASPECT, size)
        if rule.drop_animated and facts.animated:
            return Drop(ANIMATED)
        return None

    def _caption(self, facts: facts_of.Facts) -> Drop | None:
        rule = self._config.caption
        num_words = len(facts.caption.split())
        if num_words < rule.min_words:
            return Drop(SHORT, wording.counted(num_words, "word"))
        for pattern in self._patterns:
            found = pattern.search(facts.caption)
            if found:
                return Drop(BOILERPLATE, found[0].strip()[:80])
        is_other = rule.languages and facts.language not in rule.languages
        if is_other and facts.confidence >= rule.min_confidence:
            return Drop(LANGUAGE, f"{facts.language} {facts.confidence:.3f}")
        return None

    def _classifiers(self, facts: facts_of.Facts) -> Drop | None:
        for (name, threshold), score in zip(
            self._thresholds, facts.scores, strict=True
        ):
            if threshold is not None and score >= threshold:
                return Drop(f"{CLASSIFIER}:{name}", f"{score:.4f}")
        return None

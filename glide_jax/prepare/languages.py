"""The language of a caption, by py3langid."""

from __future__ import annotations

from collections.abc import Callable

Detector = Callable[[str], tuple[str, float]]


def none(caption: str) -> tuple[str, float]:
    """Finds no language."""
    del caption
    return "", 0.0


def make_detector() -> Detector:
    """Returns a function caption -> (ISO 639-1 code, probability)."""
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(
        langid.MODEL_FILE, norm_probs=True
    )

    def detect(caption: str) -> tuple[str, float]:
        language, probability = identifier.classify(caption)
        return language, float(probability)

    return detect


def known() -> set[str]:
    """The codes that py3langid knows."""
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    return set(identifier.nb_classes)

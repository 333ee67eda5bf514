"""What can be wrong with a preparation, found before its work begins."""

from __future__ import annotations

import pathlib

from glide_jax.errors import UserError
from glide_jax.prepare import classifiers, job, languages, scores
from glide_jax.runtime import wording


def check(work: job.Job) -> list[str]:
    """Opens the sources; returns a line about each set.

    Raises:
      UserError: a source cannot be opened, or a setting names what does not exist.
    """
    config = work.config
    for path in config.classifiers.examples:
        for name in (classifiers.POSITIVES, classifiers.NEGATIVES):
            if not (pathlib.Path(path) / name).is_dir():
                raise UserError(
                    f"classifiers.examples: {path} has no folder {name}; put pictures"
                    f" of the class into {classifiers.POSITIVES} and others into"
                    f" {classifiers.NEGATIVES}"
                )
    scores.names(config)
    if config.caption.languages:
        unknown = set(config.caption.languages) - languages.known()
        if unknown:
            raise UserError(
                f"caption.languages names {', '.join(sorted(unknown))}, which py3langid"
                " does not know; use codes of ISO 639-1, e.g. ('en',)"
            )
    if not config.output.name.isidentifier() or not config.output.split.isidentifier():
        raise UserError(
            f"output.name={config.output.name!r} and output.split="
            f"{config.output.split!r} are names of a data set and its split; use"
            " letters, digits and underscores"
        )
    lines = []
    for is_validation in (False, True):
        if is_validation and not config.data.validation_sources:
            continue
        source = job.open_pairs(config, is_validation=is_validation)
        name = "validation pairs" if is_validation else "pairs"
        chunks = wording.counted(-(-len(source) // job.CHUNK), "part")
        lines.append(f"{name}: {len(source):,} in {chunks}")
    return lines

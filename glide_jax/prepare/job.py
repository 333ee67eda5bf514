"""The folders and settings of a preparation, as every worker needs them.

OUTPUT/
  manifest.json      written last: counts by rule, shards and their digests
  README.md          the data card
  train/             shards, or a data set in ArrayRecord files under OUTPUT/pairs/
  dropped/           Parquet files: what was dropped, and why
  sheets/            pictures of what each rule drops
  work/              settings, facts, the order: what a killed run continues from
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from glide_jax.config import preparation
from glide_jax.data import schema, sources
from glide_jax.errors import UserError
from glide_jax.runtime import files

MANIFEST, CARD = "manifest.json", "README.md"
# Pairs of a part of the facts: what a kill loses at most for each worker.
CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Job:
    """A preparation.

    Attributes:
      config: the settings.
      output: the folder of the output, which all workers reach by this path.
    """

    config: preparation.PrepareConfig
    output: pathlib.Path

    @property
    def work(self) -> pathlib.Path:
        """The folder of what a killed run continues from."""
        return self.output / "work"

    @property
    def dropped(self) -> pathlib.Path:
        """The folder of the list of dropped pairs."""
        return self.output / "dropped"

    @property
    def order(self) -> pathlib.Path:
        """The folder of the pairs of each shard."""
        return self.work / "order"

    @property
    def shards(self) -> pathlib.Path:
        """The folder of the records of finished shards."""
        return self.work / "shards"

    def facts(self, *, is_validation: bool) -> pathlib.Path:
        """The folder of the facts of one set."""
        return self.work / ("facts_validation" if is_validation else "facts")

    def keep_settings(self) -> None:
        """Stores the settings of the first start.

        Raises:
          UserError: a later start has others.
        """
        path = self.work / "settings.json"
        mine = preparation.flat(self.config)
        if path.exists():
            before = files.read_json(path)
            changed = [
                f"{name}: {before.get(name)} -> {mine.get(name)}"
                for name in before | mine
                if before.get(name) != mine.get(name)
            ]
            if changed:
                raise UserError(
                    f"{self.output} was started with other settings"
                    f" ({'; '.join(changed)}); use those, or name another --output"
                )
            return
        files.write_json(path, mine)


@functools.lru_cache(maxsize=2)
def open_pairs(
    config: preparation.PrepareConfig, *, is_validation: bool = False
) -> schema.Source:
    """Opens all sources of one set, in the order of the settings; once per process.

    Raises:
      UserError: a source cannot be opened.
    """
    specs = config.data.validation_sources if is_validation else config.data.sources
    split = "validation" if is_validation else "train"
    return sources.open_mixture(specs, (1.0,), split=split)

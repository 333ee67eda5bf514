"""The stages of `glide data prepare`, each continued where a killed run left it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow.parquet

from glide_jax.errors import UserError
from glide_jax.prepare import (
    choose,
    engine,
    job,
    reading,
    report,
    rules,
    scan,
    scores,
    shards,
)
from glide_jax.runtime import ledger, progress, wording

# More crashes are a fault of the machine and not of pictures: a number and a share.
MIN_CRASHES, MAX_CRASHES = 10, 0.01


@dataclasses.dataclass
class Run:
    """A run of all stages."""

    work: job.Job
    engine: engine.Engine

    def __post_init__(self) -> None:
        self.ledger = ledger.Ledger(self.work.work / "ledger.json")

    def prepare(self) -> dict[str, Any]:
        """Runs the stages that are left; returns the manifest."""
        config = self.work.config
        self.work.work.mkdir(parents=True, exist_ok=True)
        self.work.keep_settings()
        trained = scores.train(self.work, self.ledger)
        if config.data.validation_sources:
            self._scan(is_validation=True, columns=0)
        num_pairs = self._scan(is_validation=False, columns=len(trained))
        chosen = self._choose(num_pairs, trained)
        self._write(chosen, trained)
        return report.write(self.work, self.ledger, chosen, trained)

    def _scan(self, *, is_validation: bool, columns: int) -> int:
        """Stage 1; returns the number of pairs."""
        name = "read validation" if is_validation else "read"
        source = job.open_pairs(self.work.config, is_validation=is_validation)
        pairs = reading.Set(self.work, is_validation, columns)
        folder = pairs.folder
        pairs.keep_length(len(source))
        if self.ledger.is_done(name):
            return len(source)
        left = scan.missing(folder, len(source))
        if left:
            parts = -(-len(source) // job.CHUNK)
            self._run(name, folder, parts, left, scan.ReadAll(pairs))
        if scan.missing(folder, len(source)):
            raise RuntimeError(f"{folder} has no facts of some pairs")
        self.ledger.finish(name, len(source))
        return len(source)

    def _choose(self, num_pairs: int, trained: scores.Columns) -> dict[str, Any]:
        """Stage 2; returns counts."""
        if self.ledger.is_done("choose"):
            return self.ledger.result("choose")
        for folder in (self.work.order, self.work.dropped, self.work.shards):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        facts = self.work.facts(is_validation=False)
        paths = sorted(map(str, facts.glob("*.parquet")))
        stage = choose.Choose(self.work, trained, num_pairs)
        self._run("choose", self.work.order, 0, paths, stage)
        kept = [_num_rows(path) for path in sorted(self.work.order.glob("*.parquet"))]
        counts = count_rules(self.work.dropped)
        if num_pairs != sum(kept) + sum(counts.values()):
            raise RuntimeError(
                f"{num_pairs} pairs read, {sum(kept)} kept and {counts} dropped"
            )
        crashes = counts.get(rules.CRASH, 0)
        if crashes > max(MIN_CRASHES, MAX_CRASHES * num_pairs):
            raise UserError(
                f"{crashes} of {wording.counted(num_pairs, 'pair')} ended their"
                f" process, which no set of pictures does; see {self.work.dropped},"
                f" repair the machine, remove {self.work.work} and run again"
            )
        if not kept:
            most = max(counts, key=counts.__getitem__)
            raise UserError(
                f"no pair of {wording.counted(num_pairs, 'pair')} is kept (most are"
                f" dropped by {most}: {counts[most]}); see {self.work.dropped}"
            )
        result = {"pairs": num_pairs, "shards": kept, "dropped": counts}
        self.ledger.finish("choose", result)
        return result

    def _write(self, chosen: dict[str, Any], columns: scores.Columns) -> None:
        """Stage 3."""
        if self.ledger.is_done("write"):
            return
        count = len(chosen["shards"])
        places = [(number, count) for number in range(count)]
        stage = WriteAll(self.work, columns)
        self._run("write", self.work.shards, count, places, stage)
        self.ledger.finish("write", count)

    def _run(
        self,
        name: str,
        folder: pathlib.Path,
        total: int,
        elements: list,
        stage: beam.PTransform,
    ) -> None:
        """Runs a stage over elements; shows how many files of its folder there are."""

        def build(pipeline: beam.Pipeline) -> None:
            pipeline | "elements" >> beam.Create(elements, reshuffle=False) | stage

        with self.ledger.timed(name), _watched(folder, total, name):
            self.engine.run(build)


@dataclasses.dataclass
class WriteAll(beam.PTransform):
    """(number, number of shards) -> written shards."""

    work: job.Job
    columns: scores.Columns

    def expand(self, places: beam.PCollection) -> beam.PCollection:
        """Adds the stage."""
        return (
            places
            | "spread shards" >> beam.Reshuffle()
            | "write shards" >> beam.ParDo(shards.WriteShard(self.work, self.columns))
        )


def _num_rows(path: pathlib.Path) -> int:
    return pyarrow.parquet.read_metadata(path).num_rows


def count_rules(folder: pathlib.Path) -> dict[str, int]:
    """The number of dropped pairs by rule, in the order of `rules.RULES`."""
    counts: collections.Counter[str] = collections.Counter()
    for path in folder.glob("*.parquet"):
        column = pyarrow.parquet.read_table(path, columns=["rule"]).column(0)
        for entry in column.value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    order = list(rules.RULES)
    names = sorted(counts, key=lambda rule: order.index(rule.partition(":")[0]))
    return {name: counts[name] for name in names}


@contextlib.contextmanager
def _watched(folder: pathlib.Path, total: int, name: str) -> Iterator[None]:
    """Shows the number of files of a folder while an engine works."""
    done = threading.Event()

    def watch(update: Callable[[float], None]) -> None:
        shown = 0
        while True:
            is_done = done.wait(2.0)
            count = len(list(folder.glob("*")))
            update(min(count, total) - shown)
            shown = min(count, total)
            if is_done:
                return

    with progress.ProgressBar(total, f"{name}: parts", enabled=total > 0) as bar:
        thread = threading.Thread(target=watch, args=(bar.update,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

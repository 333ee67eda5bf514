"""Contact sheets: a sample of what each rule drops, with what is kept in its place."""

from __future__ import annotations

import heapq
import pathlib

import numpy as np
import pyarrow.parquet

from glide_jax.eval import contact_sheet
from glide_jax.prepare import choose, facts, job, rules
from glide_jax.sample import image_io

# Of one rule; those with the least keys of the order are a random sample.
SAMPLES = 24
_COLUMNS = 6
# Decoding these again could end this process, or gives no picture.
_WITHOUT_PICTURE = (rules.CRASH, rules.BROKEN, rules.BOMB, rules.LOST)


def write_all(work: job.Job, counts: dict[str, int]) -> None:
    """Writes sheets/RULE.png for each rule that drops pairs with pictures."""
    folder = work.output / "sheets"
    folder.mkdir(exist_ok=True)
    for rule, rows in _samples(work.dropped, work.config.seed).items():
        if rule in _WITHOUT_PICTURE:
            continue
        sheet = _draw(work, rule, counts[rule], rows)
        image_io.write_png(folder / f"{rule.replace(':', '_')}.png", sheet)


def _samples(folder: pathlib.Path, seed: int) -> dict[str, list[dict]]:
    """A random sample of the dropped pairs of each rule, a function of the seed."""
    heaps: dict[str, list[tuple[int, int, dict]]] = {}
    for path in sorted(folder.glob("*.parquet")):
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(use_threads=False):
                for row in batch.to_pylist():
                    heap = heaps.setdefault(row["rule"], [])
                    key = -choose.order_key(seed, row["index"])
                    item = (key, row["index"], row)
                    if len(heap) < SAMPLES:
                        heapq.heappush(heap, item)
                    elif item > heap[0]:
                        heapq.heapreplace(heap, item)
    return {
        rule: [row for _, _, row in sorted(heap, reverse=True)]
        for rule, heap in heaps.items()
    }


def _draw(work: job.Job, rule: str, count: int, rows: list[dict]) -> np.ndarray:
    name = rule.partition(":")[0]
    with_other = [row["other"] >= 0 for row in rows]
    pictures, notes = [], []
    for row in rows:
        pictures.append(_picture(work, row["index"], is_validation=False))
        notes.append(f"{row['detail']} {row['key']}".strip())
        if any(with_other):
            is_validation = rule == rules.VALIDATION
            pictures.append(_picture(work, row["other"], is_validation=is_validation))
            notes.append(f"kept: {row['other_key']}")
    titles = (
        ["dropped", "kept"] * (_COLUMNS // 2) if any(with_other) else [""] * _COLUMNS
    )
    empty = -len(pictures) % _COLUMNS
    pictures += [None] * empty
    notes += [""] * empty
    section = contact_sheet.Section(
        f"{rule}: {count:,} dropped",
        f"{rules.RULES[name]}; {len(rows)} of them at random",
        titles,
        [
            ("", pictures[start : start + _COLUMNS])
            for start in range(0, len(pictures), _COLUMNS)
        ],
        [notes[start : start + _COLUMNS] for start in range(0, len(notes), _COLUMNS)],
    )
    return contact_sheet.draw_contact_sheet("", "", [section])


def _picture(work: job.Job, index: int, *, is_validation: bool) -> np.ndarray | None:
    """The pixels of a pair; None if it has no picture."""
    source = job.open_pairs(work.config, is_validation=is_validation)
    max_pixels = work.config.picture.max_pixels
    image = facts.read(source, index, max_pixels=max_pixels)[1]
    return None if image is None else np.asarray(image)

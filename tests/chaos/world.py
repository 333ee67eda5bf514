"""The run of the soak: pictures in tar shards, some damaged, and small settings."""

from __future__ import annotations

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image

from glide_jax.config.defaults import Config
from glide_jax.data import sources
from tests.train import small_runs

SHARDS, RECORDS = 6, 32
# A range, by which a shard that is not there is missed, as it is not by a glob.
SHARD_NAMES = "shapes-{000..005}.tar"
# Of the shards, damaged before the first start, of both runs alike: what is lost is
# replaced, counted and named, and the order of the rest is a function of the step.
CUT_SHARD, FLIPPED_SHARD = 4, 5
FLIPPED_PICTURES = 5


def shard(folder: pathlib.Path, number: int) -> pathlib.Path:
    """The path of a shard."""
    return folder / f"shapes-{number:03d}.tar"


def write_shards(folder: pathlib.Path) -> None:
    """Captioned shapes as img2dataset packs them, one tar cut and one with bad bits."""
    folder.mkdir(parents=True)
    world = sources.open_source("shapes:quickstart")
    for number in range(SHARDS):
        with tarfile.open(shard(folder, number), "w") as tar:
            for i in range(number * RECORDS, (number + 1) * RECORDS):
                example = world[i]
                _add(tar, f"{i:06d}.png", _png(example.image))
                _add(tar, f"{i:06d}.txt", example.caption.encode())
    cut = shard(folder, CUT_SHARD)
    cut.write_bytes(cut.read_bytes()[: int(0.6 * cut.stat().st_size)])
    flipped = shard(folder, FLIPPED_SHARD)
    content = bytearray(flipped.read_bytes())
    at = 0
    for _ in range(FLIPPED_PICTURES):
        at = content.index(b"IDAT", at) + 8
        content[at : at + 4] = b"\xff\xff\xff\xff"
    flipped.write_bytes(content)


def make_config(folder: pathlib.Path, num_steps: int, local_every: int = 0) -> Config:
    """A noised CLIP, the phase that compiles soonest, spread over two processes."""
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        small_runs.write_tokenizer(tokenizer)
    changes = {
        "data.sources": (f"webdataset:{folder / 'shards'}/{SHARD_NAMES}",),
        "data.validation_sources": ("shapes:quickstart",),
        "data.flip_prob": 0.3,
        "data.max_bad_frac": 0.5,
        "train.num_steps": num_steps,
        "train.global_batch_size": 8,
        # Losses of eight pictures are often so far from their recent average.
        "train.skip_loss_above": 1.1,
        "train.grace_secs": 120.0,  # the machine may have more to do than this
        "optim.warmup_steps": 50,
        "optim.weight_decay": 0.1,
        "mesh.fsdp": 2,
        "mesh.min_shard_mb": 0,
        "checkpoint.every_steps": 10,
        "checkpoint.keep": 4,
        "checkpoint.local_every_steps": local_every,
        "log.every_steps": 7,
        "log.validate_every_steps": 40,
        "log.validation_examples": 8,
    }
    return small_runs.make_config(tokenizer, small_runs.CLIP, changes)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))

"""Damaged inputs for a reader, as a program of its own, so that a crash is seen.

    python -m tests.data.fuzzing READER,READER COUNT SEED FIRST

reads COUNT inputs of SEED from number FIRST on, and prints as JSON how many came out
how. The law: each gives a good value or is refused by UserError (BadRecordError is
one), within INPUT_SECS, and in MEMORY_MB beyond what the program took before. Each
input's number goes to stderr before it is read, so that of the last one broke the law.
"""

from __future__ import annotations

import collections
import functools
import io
import json
import logging
import os
import pathlib
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, PngImagePlugin

from glide_jax import errors
from glide_jax.data import caption_tables, caption_text, schema, tar_shards, transforms
from glide_jax.sample import image_io, mask_files
from glide_jax.text import bpe, sentencepiece_tokenizer
from tests.data import damage, pictures

INPUT_SECS = 20
MEMORY_MB = 1024
Reader = Callable[[random.Random], str]


def sample_pictures() -> list[bytes]:
    """Small files of every format and mode that is decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 4), np.uint8)
    rgba = Image.fromarray(noise)
    rgb, gray, cmyk = (rgba.convert(mode) for mode in ("RGB", "L", "CMYK"))
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    text = PngImagePlugin.PngInfo()
    text.add_text("title", "a" * 300, zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    deep = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(24, 20) * 130)
    return [
        pictures.encode(rgb, "JPEG", exif=exif),
        pictures.encode(rgb, "JPEG", progressive=True),
        pictures.encode(cmyk, "JPEG"),
        pictures.encode(gray, "JPEG"),
        pictures.encode(rgb, "PNG", pnginfo=text, exif=exif),
        pictures.encode(rgba, "PNG", icc_profile=b"profile" * 20),
        pictures.encode(palette, "PNG", transparency=bytes(range(64))),
        pictures.encode(rgba.convert("LA"), "PNG"),
        pictures.encode(deep, "PNG", transparency=130),
        pictures.encode(gray.convert("1"), "PNG"),
        pictures.encode(rgb, "WEBP", exif=exif),
        pictures.encode(rgba, "WEBP", lossless=True),
        pictures.encode(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(90)]),
        pictures.encode(
            palette, "GIF", save_all=True, append_images=[palette.rotate(90)]
        ),
        pictures.encode(palette, "GIF", transparency=3, interlace=1),
        pictures.encode(rgb, "BMP"),
        pictures.encode(palette, "BMP"),
        pictures.encode(rgb, "PPM"),
        pictures.encode(gray.convert("1"), "PPM"),
        pictures.encode(deep, "PPM"),
        b"P3 8 8 200\n# a comment\n" + b"1 200 30 " * 64,
        pictures.encode(
            rgb, "JPEG", icc_profile=pictures.rgb_profile("Adobe RGB", 2.2)
        ),
        pictures.encode(cmyk, "JPEG", icc_profile=pictures.cmyk_profile()),
        pictures.encode(
            rgb, "PNG", icc_profile=pictures.rgb_profile("Display P3", None)
        ),
        pictures.encode(gray, "WEBP", icc_profile=pictures.gray_profile(1.8)),
    ]


def mend_png(content: bytes) -> bytes:
    """Right checksums for whatever chunks there are, so that damage gets past them."""
    mended, at = bytearray(content), 8
    while content[:4] == b"\x89PNG" and at + 12 <= len(content):
        end = at + 8 + struct.unpack(">I", content[at : at + 4])[0]
        if end + 4 > len(content):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def image_reader(folder: pathlib.Path) -> Reader:
    whole = sample_pictures()

    def read(rng: random.Random) -> str:
        content = damage.mutate(rng, rng.choice(whole), whole)
        content = mend_png(content) if rng.random() < 0.7 else content
        pixels = transforms.load_image(schema.Example(content, "", "fuzz"), 16)
        assert pixels.shape == (16, 16, 3)
        assert pixels.dtype == np.float32
        assert np.abs(pixels).max() <= 1
        return "good"

    return read


def image_file_reader(folder: pathlib.Path) -> Reader:
    """Pictures and masks that flags name: nothing speaks of records."""
    whole, path = sample_pictures(), folder / "picture"

    def read(rng: random.Random) -> str:
        content = damage.mutate(rng, rng.choice(whole), whole)
        path.write_bytes(mend_png(content) if rng.random() < 0.7 else content)
        try:
            if rng.random() < 0.5:
                assert image_io.read_image(path).dtype == np.uint8
            else:
                mask = mask_files.read(path, rng.choice([None, *mask_files.READINGS]))
                assert 0 < mask.known.mean() < 1
        except schema.BadRecordError as bad:
            raise AssertionError("a record's error") from bad
        return "good"

    return read


def sample_tar() -> bytes:
    """Six records; one name is GNU's long kind, one pax's."""
    joined, files = b"", sample_pictures()[4:]
    for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=format_) as tar:
            for i in range(3):
                stem = f"{format_}{i}" + "n" * (i == 1) * 150
                text = b"a picture" if i else b'{"caption": "a picture"}'
                members = {"png": files[i], "txt" if i else "json": text}
                for ending, content in members.items():
                    info = tarfile.TarInfo(f"{stem}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            end = tar.offset
        # Without its end mark, so that the next archive goes on where it stops.
        joined += stream.getvalue()[:end]
    return joined + bytes(1024)


def mend_tar(content: bytes) -> bytes:
    """Right checksums for whatever headers there are."""
    mended = bytearray(content)
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            mended[at + 148 : at + 156] = b" " * 8
            total = sum(mended[at : at + 512])
            mended[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(mended)


def tar_reader(folder: pathlib.Path) -> Reader:
    whole = sample_tar()
    path = folder / "a.tar"
    # A cache that cannot be written: every input is walked.
    blocked = folder / "file"
    blocked.touch()

    def read(rng: random.Random) -> str:
        content = bytearray(whole)
        if rng.random() < 0.5:
            # Into a header: most of a tar is not.
            at = 512 * rng.randrange(len(content) // 512)
            header = damage.mutate(rng, bytes(content[at : at + 512]), [whole])
            content[at : at + 512] = header[:512].ljust(512, b"\0")
        else:
            content = damage.mutate(rng, bytes(content), [whole])
        content = mend_tar(content) if rng.random() < 0.7 else content
        path.write_bytes(content)
        return _read_all(tar_shards.TarShards(str(path), blocked))

    return read


def _read_all(source: schema.Source) -> str:
    """ "good" if each record is; else the first fault's kind."""
    outcome = "good"
    for index in range(min(len(source), 50)):
        try:
            example = source[index]
            caption_text.check(example.caption, example.key)
            assert isinstance(example.image, bytes)
        except schema.BadRecordError as bad:
            outcome = bad.kind if outcome == "good" else outcome
    return outcome


def array_record_reader(folder: pathlib.Path) -> Reader:
    from array_record.python import array_record_module

    from glide_jax.data import builders, shapes_world, tfds_records

    world = shapes_world.ShapesWorld(size_px=16, length=6)
    place = builders.build_array_records(world, folder, "fuzz")
    (path,) = place.glob("*array_record*")
    whole = path.read_bytes()
    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read([*range(6)])
    reader.close()
    # The file is padded to 64 KiB blocks: damage goes where something stands.
    used = [i for i in range(0, len(whole), 64) if any(whole[i : i + 64])]

    open_once = functools.cache(tfds_records._open_builder)
    open_anew = tfds_records._open_builder
    descriptions = [place / "features.json", place / "dataset_info.json"]
    described = [path.read_bytes() for path in descriptions]

    def read(rng: random.Random) -> str:
        # Opening a data set is slow: one in fifty inputs damages its description.
        if rng.random() < 0.02:
            tfds_records._open_builder = open_anew
            which = rng.randrange(2)
            descriptions[which].write_bytes(
                damage.mutate(rng, described[which], described)
            )
            path.write_bytes(whole)
            try:
                return _read_all(tfds_records.TfdsRecords(str(place)))
            finally:
                descriptions[which].write_bytes(described[which])
        tfds_records._open_builder = open_once
        if rng.random() < 0.5:
            content = bytearray(whole)
            at = rng.choice(used)
            content[at : at + 64] = damage.mutate(
                rng, bytes(content[at : at + 64]), records
            )
            content = (
                content if rng.random() < 0.7 else damage.mutate(rng, content, [whole])
            )
            path.write_bytes(content)
        else:
            # Right hashes around what is damaged.
            writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            for record in records:
                writer.write(damage.mutate(rng, record, records))
            writer.close()
        return _read_all(tfds_records.TfdsRecords(str(place)))

    return read


_WORDS = ("a red cat", "Ünïcödé", "&amp;lt;", "<|endoftext|>", "\0", "e\u0301", "😀")
_WORDS += ("ﷺ", "\u202e", "â€™", "'s", "9", "-", "\t", "▁", "<unk>", "\ud800", "IJ")


def sample_text(rng: random.Random) -> str:
    """A caption of any characters, at times as long as one may be."""
    parts = []
    for _ in range(rng.randint(0, 12)):
        if rng.random() < 0.5:
            part = rng.choice(_WORDS)
        else:
            part = "".join(chr(rng.randrange(1 << rng.randint(5, 16))) for _ in "12345")
        parts.append(
            part * (int(2 ** rng.uniform(0, 13)) if rng.random() < 0.03 else 1)
        )
    return rng.choice(["", " "]).join(parts)


def _small_files() -> dict[str, tuple[bytes, ...]]:
    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    merges = ["c a", "ca t", "Ġ cat", "o w", "l o", "' s"]
    words = [*letters, *(m.replace(" ", "") for m in merges), "<|endoftext|>"]
    ids = {word: index for index, word in enumerate(words)}
    texts = [f"a {size} cat" for size in ("small", "large", "red", "tiny")]
    return {
        "gpt2": (json.dumps(ids).encode(), "\n".join(["#", *merges, ""]).encode()),
        "clip": (b"#version: 0.2\nc a\nca t</w>\nca t\n' s</w>\n",),
        "sentencepiece": (sentencepiece_tokenizer.train_sentencepiece(texts, 300),),
    }


_MAKERS = {
    "gpt2": bpe.Gpt2Tokenizer,
    "clip": bpe.ClipTokenizer,
    "sentencepiece": sentencepiece_tokenizer.SentencePieceTokenizer,
}


def _encode_decode(tokenizer, text: str) -> None:
    tokens, mask = tokenizer.encode_batch([text], 32)
    assert tokens.shape == mask.shape == (1, 32)
    assert tokens.min() >= 0
    assert tokens.max() < tokenizer.vocab_size
    assert isinstance(tokenizer.decode(tokens[0][mask[0]]), str)


def tokenizer_reader(folder: pathlib.Path) -> Reader:
    files = _small_files()
    tokenizers = [_MAKERS[kind](*contents) for kind, contents in files.items()]

    def read(rng: random.Random) -> str:
        text = sample_text(rng)
        caption_text.check(text, "fuzz")
        _encode_decode(rng.choice(tokenizers), text)
        return "good"

    return read


def tokenizer_file_reader(folder: pathlib.Path) -> Reader:
    files = _small_files()

    def read(rng: random.Random) -> str:
        kind = rng.choice([*files])
        contents = list(files[kind])
        damaged = rng.randrange(len(contents))
        contents[damaged] = damage.mutate(rng, contents[damaged], contents)
        tokenizer = _MAKERS[kind](*contents)
        for text in ("", "a red cat 😀", "cat's low"):
            _encode_decode(tokenizer, text)
        return "good"

    return read


def table_reader(folder: pathlib.Path) -> Reader:
    # The other pools reserve 1 GiB of addresses, of which `limit_memory` leaves few.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    import pyarrow
    import pyarrow.parquet

    names = [f"{i}.png" for i in range(40)]
    texts = [f'a "picture" of\n{i}' for i in range(40)]
    rows = zip(names, texts, strict=True)
    lines = [json.dumps({"file_name": n, "text": [t, "x"]}) for n, t in rows]
    quoted = [text.replace('"', '""') for text in texts]
    cells = [f'{n},"{t}"' for n, t in zip(names, quoted, strict=True)]
    wholes = {
        folder / "metadata.jsonl": "\n".join(lines).encode(),
        folder / "metadata.csv": "\r\n".join(["file_name,text", *cells]).encode(),
    }
    for compression in ("snappy", "none"):
        path = folder / f"{compression}.parquet"
        table = pyarrow.table({"file_name": names, "text": texts})
        pyarrow.parquet.write_table(table, path, compression=compression)
        wholes[path] = path.read_bytes()

    def read(rng: random.Random) -> str:
        path = rng.choice([*wholes])
        path.write_bytes(damage.mutate(rng, wholes[path], [*wholes.values()]))
        table = caption_tables.read(path, "file_name")
        assert table is None or all(isinstance(name, str) for name in table)
        return "good"

    return read


READERS = {
    "tar": tar_reader,
    "table": table_reader,
    "array_record": array_record_reader,
    "image": image_reader,
    "image_file": image_file_reader,
    "tokenizer": tokenizer_reader,
    "tokenizer_file": tokenizer_file_reader,
}


def run(name: str, count: int, seed: int, first: int) -> dict[str, int]:
    """Outcomes of `count` inputs; "good", "refused", or the kind of bad record."""
    outcomes: collections.Counter[str] = collections.Counter()
    # Without a disk where there is memory: most of the time would go there.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        read = READERS[name](pathlib.Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(first, first + count):
            print(f"{name} {number} of seed {seed}", file=sys.stderr, flush=True)
            signal.alarm(INPUT_SECS)  # nothing handles it: the process ends
            try:
                outcomes[read(random.Random(f"{seed} {number}"))] += 1
            except schema.BadRecordError as bad:
                outcomes[bad.kind] += 1
            except errors.UserError:
                outcomes["refused"] += 1
            finally:
                signal.alarm(0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    outcomes["grown_mb"] = grown >> 10
    return outcomes


def limit_memory() -> None:
    """Makes what asks for far more than MEMORY_MB fail."""
    now = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    # Address space, which is more than memory: threads reserve stacks and heaps.
    limit = now * os.sysconf("SC_PAGE_SIZE") + (MEMORY_MB << 21)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF
    names, *numbers = sys.argv[1:]
    limit_memory()
    print(json.dumps({n: run(n, *map(int, numbers)) for n in names.split(",")}))

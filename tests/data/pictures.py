"""Picture files and colour profiles built by hand, for tests."""

from __future__ import annotations

import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

from glide_jax.data import picture_files, schema, transforms
from glide_jax.sample import image_io

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 4), np.uint8)
RGBA = Image.fromarray(NOISE)
RGB = RGBA.convert("RGB")
GRAY = RGBA.convert("L")
# CIE xy of the red, green, and blue primaries; all have the white of D65.
PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "Display P3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
}
D65, D50 = (0.3127, 0.3290), (0.34567, 0.35850)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def encode(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def png(ihdr: bytes, rows: bytes, *before: tuple[bytes, bytes]) -> bytes:
    """A PNG of these header and filtered rows, with chunks between the two."""
    chunks = [(b"IHDR", ihdr), *before, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, chunks))


def chunk(kind_and_data: tuple[bytes, bytes]) -> bytes:
    kind, data = kind_and_data
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def insert_chunks(content: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """The PNG with chunks after its header."""
    return content[:33] + b"".join(map(chunk, chunks)) + content[33:]


def _xyz(xy: tuple[float, float]) -> np.ndarray:
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def matrix(primaries: str) -> np.ndarray:
    """Linear RGB to XYZ under D65."""
    columns = np.stack([_xyz(xy) for xy in PRIMARIES[primaries]], axis=1)
    return columns * np.linalg.solve(columns, _xyz(D65))


def _to_d50() -> np.ndarray:
    scale = (BRADFORD @ _xyz(D50)) / (BRADFORD @ _xyz(D65))
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD


def srgb_curve(levels: np.ndarray) -> np.ndarray:
    """Levels in [0, 1] as linear light (IEC 61966-2-1)."""
    return np.where(
        levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
    )


def as_srgb(levels: np.ndarray, primaries: str, gamma: float | None) -> np.ndarray:
    """uint8 colours (..., 3) of such a space in sRGB, by the standards' matrices."""
    levels = np.asarray(levels) / 255
    light = srgb_curve(levels) if gamma is None else levels**gamma
    change = np.linalg.inv(matrix("sRGB")) @ matrix(primaries)
    light = np.clip(light @ change.T, 0, 1)
    out = np.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )
    return np.round(255 * out)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256)) + bytes(2)
    values = np.round(65535 * srgb_curve(np.linspace(0, 1, 1024))).astype(">u2")
    return struct.pack(">4sII", b"curv", 0, values.size) + values.tobytes()


def _profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2."""
    white = b"XYZ " + bytes(4) + b"".join(map(_fixed, (0.9642, 1.0, 0.8249)))
    text = b"test\0"
    named = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + text + bytes(79),
        b"cprt": b"text" + bytes(4) + text + bytes(3),
        b"wtpt": white,
        **tags,
    }
    table, body = struct.pack(">I", len(named)), b""
    start = 128 + 4 + 12 * len(named)
    for name, data in named.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, kind, space, pcs)
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp")
    head = head.ljust(68, b"\0") + white[8:]
    return head.ljust(128, b"\0") + table + body


def rgb_profile(primaries: str, gamma: float | None) -> bytes:
    """A profile of primaries and a gamma; None: the curve of sRGB."""
    columns = (_to_d50() @ matrix(primaries)).T
    tags = {}
    for letter, column in zip("rgb", columns, strict=True):
        xyz = b"XYZ " + bytes(4) + b"".join(map(_fixed, column))
        tags[f"{letter}XYZ".encode()] = xyz
        tags[f"{letter}TRC".encode()] = _curve(gamma)
    return _profile(b"RGB ", tags)


def gray_profile(gamma: float) -> bytes:
    """A profile of gray with a gamma."""
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A printer whose coloured inks are gray, of L* = 50, and whose black is L* = 0."""
    inks = [(0 if ink % 2 else 127 if ink else 255) for ink in range(16)]
    table = b"".join(bytes([lightness, 128, 128]) for lightness in inks)
    identity = b"".join(map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    ramp = bytes(range(256))
    lut = struct.pack(">4sI4B", b"mft1", 0, 4, 3, 2, 0)
    lut += identity + ramp * 4 + table + ramp * 3
    return _profile(b"CMYK", {b"A2B0": lut}, b"Lab ")


def _doors(content: bytes, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The pixels that training, a flag's file, and a Pillow picture result in."""
    path = folder / "picture"
    path.write_bytes(content)
    example = schema.Example(content, "a picture", "key")
    with Image.open(path) as opened:
        return {
            "training": np.asarray(transforms.decode(example)),
            "file": image_io.read_image(path),
            "Pillow": image_io.as_pixels(opened)[0],
        }


def read(content: bytes, folder: pathlib.Path) -> np.ndarray:
    """The pixels of every door, found the same."""
    found = _doors(content, folder)
    for pixels in found.values():
        np.testing.assert_array_equal(pixels, found["training"])
    return found["training"]


def colour(content: bytes, folder: pathlib.Path) -> tuple[int, ...]:
    """The first pixel, as `read`."""
    return tuple(read(content, folder)[0, 0].tolist())


def decode(content: bytes) -> np.ndarray:
    """The pixels on white."""
    return np.asarray(picture_files.on_white(picture_files.decode(content, "key")))

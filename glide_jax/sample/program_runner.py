"""Draws pictures with the sampler beside this file; needs jax, flatbuffers and numpy.

    python run.py                                    the example of example.npz
    python run.py --inputs=mine.json --output=out    inputs of your own

manifest.json describes the inputs. A file has them by name, as .npz or as JSON lists.
Those that it leaves out are taken from example.npz for every picture; `index` is 0, 1,
2, ... then. Pictures are written to OUTPUT/000000.png, ..., and to OUTPUT/pixels.npy,
which can be the low_res of the next model.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

DTYPES = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}

PIXELS = "pixels.npy"

# The ids of a caption need their mask.
PAIRS = {
    "text_mask": "tokens",
    "uncond_mask": "uncond_tokens",
    "clip_mask": "clip_tokens",
}

Arrays = dict[str, np.ndarray]


def load(folder: pathlib.Path) -> Callable[[Mapping[str, Any]], np.ndarray]:
    """Returns the sampler in `folder`: inputs by name -> uint8 (b, h, w, 3)."""
    manifest = json.loads((folder / "manifest.json").read_text())
    check_version(jax.__version__, manifest["oldest_jax_version"])
    # Not at the top: a jax that is too old may lack it.
    from jax import export

    program = export.deserialize(bytearray((folder / manifest["program"]).read_bytes()))
    weights = [
        read_safetensors(folder / manifest[name]["file"]) if manifest[name] else {}
        for name in ("params", "clip_params")
    ]
    weights = jax.device_put(weights)
    call = jax.jit(program.call)  # compiled once for each number of pictures
    with np.load(folder / "example.npz") as arrays:
        example = dict(arrays)

    def draw(given: Mapping[str, Any]) -> np.ndarray:
        inputs = complete(given, example, manifest["inputs"])
        return np.asarray(call(*weights, inputs))

    return draw


def check_version(installed: str, oldest: str) -> None:
    """Raises ValueError for a jax older than the oldest that runs the program."""

    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)[:3]]

    if numbers(installed) < numbers(oldest):
        raise ValueError(
            f"jax {installed} is installed, and this program needs jax {oldest} or "
            f"newer; pip install 'jax>={oldest}'"
        )


def complete(given: Mapping[str, Any], example: Arrays, described: dict) -> Arrays:
    """Returns every input that the manifest describes, in its dtype.

    Raises:
      ValueError: an input that the program does not take, of another shape, without
        its mask, or for another number of pictures than the others.
    """
    unknown = sorted(given.keys() - described.keys())
    if unknown:
        raise ValueError(f"{unknown[0]} is not an input; known: {', '.join(described)}")
    for mask, tokens in PAIRS.items():
        if (mask in given) != (tokens in given):
            raise ValueError(f"give {tokens} and {mask} together")
    given = {n: np.asarray(v, described[n]["dtype"]) for n, v in given.items()}
    for name, value in given.items():
        if described[name]["shape"] and not value.ndim:
            given[name] = value[None]  # one number for one picture
    rows = {len(v) for n, v in given.items() if described[n]["shape"][:1] == ["b"]}
    if len(rows) > 1:
        raise ValueError(
            f"inputs are for {sorted(rows)} pictures; give as many of each"
        )
    batch = rows.pop() if rows else 1
    defaults = {**example, "index": np.arange(batch, dtype=np.uint32)}
    inputs = {}
    for name, about in described.items():
        shape = tuple(batch if side == "b" else side for side in about["shape"])
        if name not in given:
            inputs[name] = np.broadcast_to(defaults[name], shape)
        elif given[name].shape == shape:
            inputs[name] = given[name]
        else:
            found = given[name].shape
            raise ValueError(f"{name} has shape {found}; it has to be {shape}")
    return inputs


def read_safetensors(path: pathlib.Path) -> Arrays:
    """Reads tensors: the length of the header, the header in JSON, then the data."""
    content = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in about["data_offsets"])
            flat = content[begin:end].view(DTYPES[about["dtype"]])
            tensors[name] = flat.reshape(about["shape"])
    return tensors


def png(pixels: np.ndarray) -> bytes:
    """Returns a uint8 picture (h, w, 3) as the content of a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    # Each row begins with the number of its filter, 0 for none.
    rows = np.pad(pixels.reshape(height, 3 * width), ((0, 0), (1, 0)))
    data = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def read_inputs(path: pathlib.Path | None) -> dict[str, Any]:
    """Reads arrays or lists by name from a .json or .npz file."""
    if path is None:
        return {}
    given = json.loads(path.read_text()) if path.suffix == ".json" else np.load(path)
    if not hasattr(given, "keys"):
        raise ValueError(f"{path} holds no inputs by name; see manifest.json")
    return dict(given)


def local_path(given: str) -> pathlib.Path:
    """Returns a path of this machine; argparse reports the error."""
    if "://" in given:
        raise argparse.ArgumentTypeError(f"{given} is a URL; give a path")
    return pathlib.Path(given).expanduser()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=local_path, help=".npz or .json")
    parser.add_argument("--output", type=local_path, default=pathlib.Path("pictures"))
    flags = parser.parse_args()
    if (flags.output / PIXELS).exists():
        sys.exit(f"run.py: --output={flags.output} holds pictures; name another folder")
    try:
        pictures = load(pathlib.Path(__file__).parent)(read_inputs(flags.inputs))
    except (AttributeError, OSError, OverflowError, TypeError, ValueError) as error:
        sys.exit(f"run.py: {error}")
    flags.output.mkdir(parents=True, exist_ok=True)
    np.save(flags.output / PIXELS, pictures)
    for i, pixels in enumerate(pictures):
        (flags.output / f"{i:06d}.png").write_bytes(png(pixels))
    sys.stdout.write(f"{len(pictures)} x PNG written to {flags.output}\n")


if __name__ == "__main__":
    main()

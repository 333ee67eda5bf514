"""Time a server of pictures, 8 clients at once against one at a time: one JSON row.

    glide benchmark serve --base=runs/cfg/bundle --upsampler=runs/up/bundle
    glide benchmark serve --base=runs/cfg/bundle --batch_size=8 --output=rows.jsonl
    glide benchmark serve --url=http://127.0.0.1:8000 --token_file=token.txt

With --base it starts `glide serve` for the time of the measurement, on this machine.
Each request asks for one picture. With --url the row does not describe the machine,
which may be another one.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags

from glide_jax.cli import benchmark, define, sampling
from glide_jax.errors import UserError

_DESCRIBE = (
    "import json; from glide_jax.bench import machine; "
    "print(json.dumps(machine.describe()))"
)


def define_flags(fv: flags.FlagValues) -> None:
    """Defines the server, the requests and the output."""
    add = define.Define(fv)
    sampling.define_models(add)
    add.text("url", "instead of --base: address of a running server")
    add.path("token_file", "a file with the token of that server")
    add.whole("batch_size", "of the server that is started", 8, least=1)
    add.whole("clients", "clients that ask at once", 8, least=2)
    add.whole("requests", "pictures of each of the two measurements", 32, least=2)
    add.text("prompt", "of every request", "a picture")
    add.text("respacing", "timesteps of the base model; default: the bundle's")
    meaning = "timesteps of the upsampler; default: the bundle's"
    add.text("upsampler_respacing", meaning)
    add.path("output", "file to which the row is appended, e.g. rows.jsonl")


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Starts a server unless one is given, and measures."""
    from glide_jax.bench import serving

    if args:
        raise UserError(
            f"{args[0]!r} is not a flag; see `glide benchmark serve --help`"
        )
    if bool(fv.url) == bool(fv.base):
        raise UserError("give either --base=BUNDLE or --url=http://127.0.0.1:8000")
    if fv.token_file and not fv.url:
        raise UserError("--token_file is for a running server; give --url")
    if fv.url:
        own = ("upsampler", "clip", "compute_dtype", "fsdp", "batch_size")
        given = [name for name in own if fv[name].present]
        if given:
            raise UserError(
                f"--{given[0]} is for a server that is started here; leave it out with "
                "--url"
            )
    options = {
        name: fv[name].value
        for name in ("respacing", "upsampler_respacing")
        if fv[name].value is not None
    }
    settings = serving.Settings(fv.clients, fv.requests, fv.prompt, options)

    def measure() -> dict[str, Any]:
        if fv.url:
            token = None
            if fv.token_file:
                token = _read_token(fv.token_file)
            return {"url": fv.url, **serving.benchmark(fv.url, token, settings)}
        # In a process of its own: a device may have room for one only.
        machine = json.loads(_output_of([sys.executable, "-c", _DESCRIBE]))
        with _started(fv) as url:
            row = serving.benchmark(url, None, settings)
        return {**row, "batch_size": fv.batch_size, "machine": machine}

    return benchmark.write_row(fv, measure)


def _read_token(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--token_file={path} cannot be read; give a text file"
        ) from error


@contextlib.contextmanager
def _started(fv: flags.FlagValues) -> Iterator[str]:
    """Yields the address of a server that runs during the block."""
    words = [sys.executable, "-m", "glide_jax.cli.main", "serve", "--port=0"]
    for name in ("base", "upsampler", "clip", "compute_dtype", "fsdp", "batch_size"):
        if fv[name].value is not None:
            words.append(f"--{name}={fv[name].value}")
    words.append(f"--max_queue={max(64, fv.clients)}")
    words.append("--deadline_s=600")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            if found is None:  # it has said why
                raise UserError("the server did not start; see the line above")
            yield found[0]
        finally:
            server.terminate()


def _output_of(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

"""Answer requests for pictures over HTTP, in the shape of OpenAI's image interface.

    glide serve --base=runs/cfg/bundle --upsampler=runs/up/bundle
    glide serve --base=runs/inpaint/bundle --host=0.0.0.0 --port=8000 \\
        --token_file=token.txt --batch_size=8 --respacing=27

POST /v1/images/generations draws pictures of a prompt, POST /v1/images/edits repaints
the transparent part of a picture. GET /v1/models, /healthz and /metrics describe the
server. The options of `glide sample` are further fields of a request; given as flags
they are the values of requests that leave them out.

Pictures of several requests are drawn in one batch. A picture is the one that
`glide sample` draws of its seed and index. SIGTERM ends the server when the requests
that it has are answered, with exit code 42.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import define, sampling
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle

if TYPE_CHECKING:
    from glide_jax.serve.service import Service

# The modules of the extra [serve].
_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def define_flags(fv: flags.FlagValues) -> None:
    """Defines the models, the address, the limits and the options of requests."""
    add = define.Define(fv)
    sampling.define_models(add)
    for group in ("guidance", "steps", "upsampler", "inpaint"):
        sampling.define_options(add, group)
    add.text("model_name", "name of the models for clients; default: the base model's")
    meaning = "address to listen at; one that other machines reach needs a token"
    add.text("host", meaning, "127.0.0.1")
    add.whole("port", "port to listen at; 0: any free one", 8000, least=0)
    add.text("token", "bearer token that clients give; visible in lists of processes")
    add.path("token_file", "instead of --token: a file with the token")
    add.whole("batch_size", "pictures drawn at once", 4, least=1)
    add.whole("max_delay_ms", "longest wait of a picture for others", 50, least=0)
    meaning = (
        "fill every batch up to --batch_size, so that a picture has the same bytes"
    )
    meaning += " in each; without it few pictures are drawn faster, and a value may "
    meaning += "differ by a level or two"
    add.switch("exact", meaning, True)
    add.whole("max_queue", "pictures that wait; more are refused", 64, least=1)
    add.whole("deadline_s", "seconds after which a request is given up", 300, least=1)
    add.whole("drain_s", "seconds that a stopping server draws on", 30, least=0)
    add.whole("max_pictures", "pictures of a request", 10, least=1)
    add.whole("max_prompt_chars", "characters of a prompt", 1000, least=1)
    add.whole("max_pixels", "pixels of an uploaded picture", 1 << 22, least=1)
    add.whole("max_upload_mb", "megabytes of a request", 20, least=1)
    meaning = "combinations of options with a compiled program of their own; more are "
    meaning += "refused"
    add.whole("max_programs", meaning, 8, least=1)


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Listens until a signal, and raises StoppedError then."""
    if args:
        raise UserError(f"{args[0]!r} is not a flag; see `glide serve --help`")
    define.check_installed("the server", _NEEDED, "serve")
    if fv.max_queue < fv.max_pictures:
        raise UserError(
            f"--max_queue={fv.max_queue} cannot hold a request of --max_pictures="
            f"{fv.max_pictures}; give at least as many"
        )
    from glide_jax.serve import listening

    token = _read_token(fv)
    listener = listening.listen(fv.host, fv.port, has_token=token is not None)
    with listener, lifecycle.StopRequest() as stop:
        server = _make(fv, token)
        server.warm_up(stop.check)
        server.start(listener)
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        print(f"listening at http://{host}:{port}", flush=True)
        while server.is_running and not stop.requested:
            stop.sleep(lifecycle.POLL_SECS)
        is_finished = server.stop(fv.drain_s)
    if server.queue.failure is not None:
        raise server.queue.failure
    if not stop.requested:
        raise RuntimeError("the HTTP server ended by itself")
    kept = "every request answered"
    if not is_finished:
        kept = f"requests given up that took longer than --drain_s={fv.drain_s}"
    raise lifecycle.StoppedError(f"stopped by {stop.signal_name} with {kept}")


def _read_token(fv: flags.FlagValues) -> str | None:
    """Returns the token, or None without one."""
    if fv.token is not None and fv.token_file is not None:
        raise UserError("--token_file replaces --token; give one of them")
    token, name = fv.token, "--token"
    if fv.token_file is not None:
        name = f"--token_file={fv.token_file}"
        try:
            token = pathlib.Path(fv.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{name} cannot be read; give a text file") from error
    if token is not None and not (token.isascii() and token.isprintable() and token):
        raise UserError(f"{name} is empty or not ASCII; give a text without spaces")
    return token


def _make(fv: flags.FlagValues, token: str | None) -> Service:
    from glide_jax.serve import app, reading, service

    defaults = sampling.read_options(fv)
    defaults.pop("batch_size")  # the server's
    glide = sampling.load_models(fv)
    return service.Service(
        glide,
        model_name=fv.model_name or glide.base.config.name,
        batching=service.Batching(
            fv.batch_size, fv.max_delay_ms / 1000, fv.max_queue, fv.exact
        ),
        limits=reading.Limits(
            fv.max_pictures, fv.max_prompt_chars, fv.max_pixels, fv.max_programs
        ),
        access=app.Access(token, fv.max_upload_mb * 1_000_000, fv.deadline_s),
        defaults=defaults,
    )

"""Open a page that draws, repaints, edits, compares and votes, on this machine.

    glide demo
    glide demo --base=runs/cfg/bundle --upsampler=runs/up/bundle --clip=runs/clip/bundle
    glide demo --base=runs/cfg/bundle --fill_base=runs/inpaint/bundle --port=0

Without --base it uses the models that come with glide_jax. The page is at
http://127.0.0.1:7860, an address that no other machine reaches. It shows pictures with
the command that draws them again. SIGTERM or Ctrl-C ends it with code 42.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import define, output_folders, sampling
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle

if TYPE_CHECKING:
    from glide_jax.demo.bundles import Models

# The modules of the extra [demo].
_NEEDED = ("gradio", "fastapi", "uvicorn")


def define_flags(fv: flags.FlagValues) -> None:
    """Defines the models, the port and the folder."""
    add = define.Define(fv)
    sampling.define_models(add)
    add.path("fill_base", "bundle of the model that repaints; left out: --base")
    add.path("fill_upsampler", "its upsampler; left out: --upsampler")
    add.whole("port", "port to listen at; 0: any free one", 7860, least=0)
    add.path("output", "folder for the pictures, their records and votes", "out/demo")
    add.whole("max_pictures", "most pictures that are drawn at once", 16, least=1)
    add.whole("max_queue", "requests that wait; more are refused", 16, least=1)


def run(fv: flags.FlagValues, args: list[str]) -> int:
    """Serves the page until a signal, and raises StoppedError then."""
    if args:
        raise UserError(f"{args[0]!r} is not a flag; see `glide demo --help`")
    define.check_installed("the page", _NEEDED, "demo")
    from glide_jax.serve import listening

    listener = listening.listen("127.0.0.1", fv.port, has_token=False, flags="--port")
    with (
        listener,
        lifecycle.StopRequest() as stop,
        output_folders.made_folder(sampling.output_of(fv)) as folder,
        output_folders.alone(folder),
    ):
        models = _load(fv)
        from glide_jax.demo import studio, web

        limits = studio.Limits(fv.max_pictures, fv.max_queue)
        with web.served(models, folder, listener, limits) as (own, http):
            print(f"open http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
            while http.is_running and own.failure is None and not stop.requested:
                stop.sleep(lifecycle.POLL_SECS)
    if own.failure is not None:
        raise own.failure
    if not stop.requested:
        raise RuntimeError("the HTTP server ended by itself")
    raise lifecycle.StoppedError(
        f"stopped by {stop.signal_name}; pictures and votes are in {folder}"
    )


def _load(fv: flags.FlagValues) -> Models:
    """Loads the bundles of the flags, or the default ones."""
    from glide_jax.demo import bundles

    given = ("upsampler", "clip", "fill_base", "fill_upsampler")
    if fv.base:
        chosen = bundles.Bundles(fv.base, *(fv[name].value for name in given))
        if chosen.fill_upsampler and not chosen.fill_base:
            raise UserError("--fill_upsampler is for --fill_base; give both")
    else:
        named = [name for name in given if fv[name].value]
        if named:
            raise UserError(f"--{named[0]} needs a base model; give --base=BUNDLE")
        chosen = bundles.find_default()
    return bundles.load(chosen, fsdp=fv.fsdp, compute_dtype=fv.compute_dtype)

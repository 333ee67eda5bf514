"""Reads requests: fields and uploads to rows that a batch can draw, checked before.

A request is refused here or drawn: what the models would refuse in the batch would
fail the other requests of the batch as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from glide_jax.data import picture_files, schema
from glide_jax.errors import UserError
from glide_jax.sample import cascade, inpaint_conditions, options, request
from glide_jax.serve.answers import RequestError, unusable
from glide_jax.serve.drawing import Group, Row

# Fields of OpenAI's interface of which one behaviour exists here, and the values that
# ask for it.
FIXED = {
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "quality": ("auto", "standard"),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "stream": (False, "false"),
}
# Fields that change no picture.
IGNORED = ("user",)
_OWN = ("prompt", "model", "n", "size", "strength", "source_prompt")
# The server's, not a request's.
_NO_FIELDS = ("batch_size",)
# Noise of edits, as of `glide edit`.
DEFAULT_STRENGTH = 0.6


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest requests that are taken.

    Attributes:
      pictures: pictures of a request, candidates included.
      prompt_chars: characters of a prompt.
      pixels: pixels of an uploaded picture.
      programs: combinations of options that compile a program of their own.
    """

    pictures: int = 10
    prompt_chars: int = 1000
    pixels: int = 1 << 22
    programs: int = 8


class Asked(NamedTuple):
    """The pictures of a request."""

    group: Group
    rows: list[Row]


class Reader:
    """Reads the requests to one server."""

    def __init__(
        self,
        glide: cascade.Glide,
        *,
        model_name: str,
        limits: Limits | None = None,
        defaults: Mapping[str, Any] | None = None,
    ):
        """Reads nothing yet.

        Args:
          glide: the models.
          model_name: their name for clients.
          limits: see `Limits`.
          defaults: options of requests that give no other.
        """
        self._glide, self.model_name = glide, model_name
        self._limits, self._defaults = limits or Limits(), dict(defaults or {})
        self._programs: set[Any] = set()
        self._lock = threading.Lock()  # requests are read in several threads
        self._names = [n for n in options.names() if n not in _NO_FIELDS]

    def read(
        self,
        fields: Mapping[str, Any],
        image: bytes | None = None,
        mask: bytes | None = None,
    ) -> Asked:
        """Returns the rows of a request.

        Args:
          fields: by name; values of a form are texts. None: not given.
          image: the picture file of an edit. Without a mask, its transparent pixels are
            repainted; without such, all of it is changed as `Glide.edit` does.
          mask: the picture file of a mask, of which transparent pixels are repainted.

        Raises:
          RequestError: a field or a file that cannot be used.
        """
        fields = {name: one for name, one in fields.items() if one is not None}
        self._check_names(fields)
        self._check_model(fields.get("model"))
        prompt = self._text(fields, "prompt")
        count = _whole(fields, "n", 1)
        picture = known = None
        verb = "sample"
        if image is not None:
            picture, known = self._read_pictures(image, mask)
            verb = "edit" if known is None else "inpaint"
        self._check_size(fields.get("size", "auto"), picture)
        chosen = self._chosen(fields, verb)
        seed = chosen.pop("seed", None)
        if seed is None:
            seed = secrets.randbelow(options.MAX_KEY + 1)
        first = chosen.pop("first_index", 0)
        strength = source = None
        if verb == "edit":
            strength = _number(fields, "strength", DEFAULT_STRENGTH)
        if "source_prompt" in fields:
            source = self._text(fields, "source_prompt")
        group = Group(
            verb,
            tuple(sorted(chosen.items())),
            None if picture is None else (picture.shape[0], picture.shape[1]),
            strength,
            source is not None,
        )
        program = self._check_models(
            group, prompt, count, {"seed": seed, "first_index": first}
        )
        if known is not None:
            self._check_mask(known, group)
        self._count_program(program)
        step = chosen.get("candidates", 1)
        rows = [
            Row(prompt, seed, first + i * step, picture, known, source)
            for i in range(count)
        ]
        return Asked(group, rows)

    def _chosen(self, fields: Mapping[str, Any], verb: str) -> dict[str, Any]:
        """Returns the options of a request; refuses a field that has no effect."""
        given, chosen = self._options(fields), dict(self._defaults)
        for name in ("strength", "source_prompt"):
            if name in fields and verb != "edit":
                raise unusable(f"{name} is for an edit of a whole picture", name)
        if verb != "inpaint":
            for name in options.names(group="inpaint"):
                if name in given:
                    raise unusable(f"{name} is for an edit with a mask", name)
                chosen.pop(name, None)
        _drop_idle(chosen, given)
        return {**chosen, **given}

    def _check_names(self, fields: Mapping[str, Any]) -> None:
        known = [*_OWN, *FIXED, *IGNORED, *self._names]
        for name, value in fields.items():
            if name not in known:
                listed = ", ".join(known)
                raise unusable(f"{name!r:.60} is not a field; known: {listed}", name)
            if name in FIXED and value not in FIXED[name]:
                given = " or ".join(map(str, FIXED[name]))
                raise unusable(
                    f"{name}={value!r:.60} is not supported; give {given}", name
                )

    def _check_model(self, name: Any) -> None:
        if name is not None and name != self.model_name:
            raise RequestError(
                404,
                f"model {name!r:.60} does not exist; this server has {self.model_name}",
                param="model",
                code="model_not_found",
            )

    def _check_size(self, size: Any, picture: np.ndarray | None) -> None:
        side = self._glide.image_px
        height, width = (side, side) if picture is None else picture.shape[:2]
        if size not in ("auto", f"{width}x{height}"):
            raise unusable(
                f"size={size!r:.60} cannot be drawn; give {width}x{height} or auto",
                "size",
            )

    def _text(self, fields: Mapping[str, Any], name: str) -> str:
        value = fields.get(name)
        if not isinstance(value, str) or not value.strip():
            raise unusable(f"{name} is missing; give a text", name)
        self._check_text(name, value)
        return value

    def _check_text(self, name: str, value: str) -> None:
        if len(value) > self._limits.prompt_chars:
            raise unusable(
                f"{name} has {len(value)} characters; give at most "
                f"{self._limits.prompt_chars}",
                name,
            )
        if any("\ud800" <= one <= "\udfff" for one in value):
            raise unusable(f"{name} is not valid Unicode; give a text", name)

    def _options(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the given options, with the types that the models take."""
        found = {}
        for name in self._names:
            if name not in fields:
                continue
            kind, value = options.about(name).kind, fields[name]
            if kind == "whole":
                value = _whole(fields, name, 0)
            elif kind == "number":
                value = _number(fields, name, 0)
            elif kind == "interval":
                value = _interval(name, value)
            elif kind == "switch":
                value = {"true": True, "false": False}.get(str(value).lower(), value)
                if not isinstance(value, bool):
                    raise unusable(f"{name} is not true or false; give one", name)
            else:
                if not isinstance(value, str):
                    raise unusable(f"{name}={value!r:.60} is not a text", name)
                self._check_text(name, value)
            found[name] = value
        return found

    def _check_models(
        self, group: Group, prompt: str, count: int, seeds: dict[str, Any]
    ) -> Any:
        """Returns what the program of a group is compiled for.

        Raises:
          RequestError: what the models would refuse, or too much work.
        """
        given: Any = {**dict(group.options), **seeds}
        if group.inverts:
            given.setdefault("sampler", "ddim")
            if self._glide.upsampler is not None:
                given.setdefault("upsampler_sampler", "ddim")
        with _refused():
            options.make_options(given)
            total = count * given.get("candidates", 1)
            if count < 1 or total > self._limits.pictures:
                raise unusable(
                    f"n={count} asks for {total} pictures; give 1 to "
                    f"{self._limits.pictures}",
                    "n",
                )
            run = request.SamplingRequest(
                (self._glide.base, self._glide.upsampler, self._glide.clip),
                [prompt],
                count,
                given,
                fills=group.verb == "inpaint",
                inverts=group.inverts,
            )
            if group.strength is not None:
                options.check_strength(group.strength)
                run.edited_steps(group.strength)
        static = None if run.upsampler is None else run.upsampler.static
        return group.verb, run.base.static, static, given.get("candidates", 1)

    def _count_program(self, program: Any) -> None:
        """Raises RequestError for one program too many."""
        with self._lock:
            full = len(self._programs) >= self._limits.programs
            if full and program not in self._programs:
                raise unusable(
                    f"this server has compiled {self._limits.programs} combinations of "
                    "options and compiles no more; leave out sampler, respacing and "
                    "the like"
                )
            self._programs.add(program)

    def _read_pictures(
        self, image: bytes, mask: bytes | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the picture, uint8 (H, W, 3), and its known pixels or None."""
        decoded = self._decode(image, "image")
        picture = np.asarray(picture_files.on_white(decoded))
        repainted = None
        if mask is not None:
            alpha = self._decode(mask, "mask").convert("RGBA").getchannel("A")
            repainted = np.asarray(alpha) < 128
            if repainted.shape != picture.shape[:2]:
                sizes = f"{alpha.width}x{alpha.height}"
                raise unusable(
                    f"the mask is {sizes} and the picture {decoded.width}x"
                    f"{decoded.height}; give one size",
                    "mask",
                )
            if not repainted.any():
                raise unusable(
                    "the mask has no transparent pixel, so nothing would be "
                    "repainted; make the part to repaint transparent",
                    "mask",
                )
        elif decoded.mode == "RGBA":
            transparent = np.asarray(decoded.getchannel("A")) < 128
            repainted = transparent if transparent.any() else None
        if repainted is None:
            return picture, None
        return picture, ~repainted

    def _decode(self, content: bytes, name: str) -> Any:
        try:
            image = picture_files.load(content, name, max_pixels=self._limits.pixels)
            return picture_files.as_srgb(image, name)
        except schema.BadRecordError as bad:
            is_large = bad.kind == "decompression bomb"
            limit = f"; give at most {self._limits.pixels} pixels" if is_large else ""
            raise RequestError(
                413 if is_large else 422,
                f"{name} cannot be used: {bad.reason}{limit}",
                param=name,
            ) from bad

    def _check_mask(self, known: np.ndarray, group: Group) -> None:
        feather = dict(group.options).get("feather_px", 0)
        with _refused("mask"):
            inpaint_conditions.checked_masks(
                known[None], known.shape, self._glide.base_px, feather
            )


def _drop_idle(defaults: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Removes the server's values that have no effect with those of a request."""
    mode = given.get("guidance_mode", defaults.get("guidance_mode", "cfg"))
    for name in list(defaults):
        needs = options.about(name).needs
        prefix = name.removesuffix("eta")
        of_other_sampler = name.endswith("eta") and f"{prefix}sampler" in given
        if of_other_sampler or (needs and needs not in mode.split("+")):
            del defaults[name]


@contextlib.contextmanager
def _refused(param: str | None = None) -> Iterator[None]:
    """Turns a UserError of the block into the answer to a request."""
    try:
        yield
    except UserError as error:
        raise unusable(str(error), param) from error


def parse_json(body: bytes) -> dict[str, Any]:
    """Returns the fields of a JSON body; raises RequestError unless it is an object."""
    try:
        found = json.loads(body, parse_int=_short_int)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the body is not JSON; give an object") from error
    if not isinstance(found, dict):
        raise RequestError(400, "the body is not a JSON object; give one")
    return found


def _short_int(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number of more than 20 digits")
    return int(text)


def _number(fields: Mapping[str, Any], name: str, default: float | int) -> float:
    """Returns a number, also of a form's text."""
    value = fields.get(name, default)
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise unusable(f"{name}={value!r:.60} is not a number", name) from error
    if isinstance(value, bool) or not np.isfinite(found):
        raise unusable(f"{name}={value!r:.60} is not a number", name)
    return found


def _whole(fields: Mapping[str, Any], name: str, default: int) -> int:
    found = _number(fields, name, default)
    if found != int(found) or abs(found) > 2**53:
        raise unusable(f"{name}={fields[name]!r:.60} is not a whole number", name)
    return int(found)


def _interval(name: str, value: Any) -> tuple[float, float]:
    """Returns (first, last) of [first, last] or "first,last"."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) != 2:
        raise unusable(f"{name}={value!r:.60} is not two numbers", name)
    return _number({name: parts[0]}, name, 0), _number({name: parts[1]}, name, 0)

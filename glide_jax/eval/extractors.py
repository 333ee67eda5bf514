"""What do pictures look like to a network: the features that the metrics compare.

Two networks look at them:
  inception:FILE      the InceptionV3 of FID from its published weight file, pictures
                      resized as in pytorch-fid
  inception_tf1:FILE  the same, resized as in OpenAI's evaluator: for figures beside its
                      own, and for its reference batches
  clip:BUNDLE         one's own noised CLIP, or a converted one, at its least noise. It
                      needs no download, and its figures compare with none that are
                      published: they carry its name, noised_clip.

Features are measurements: they are computed in float32 whatever the model's type, and
do not depend on the batch that a picture stands in.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from PIL import Image

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.convert import inception as inception_weights
from glide_jax.data import transforms
from glide_jax.errors import UserError
from glide_jax.models import inception, noised_clip
from glide_jax.parallel import sharding
from glide_jax.runtime import paths
from glide_jax.sample import batches, image_io, prompt_tokens, restore

DIGEST_LENGTH = 12  # hex digits: enough to tell weights apart, short enough to print
BATCH_SIZE = 64  # that of OpenAI's evaluator
# Extractors of the Inception -> how `models.inception` resizes for them.
_RESIZING = {"inception": "pytorch_fid", "inception_tf1": "tf1"}


class Features(NamedTuple):
    """Of n pictures, float32 numpy.

    Attributes:
      pool: (n, d) what FID, KID, precision and recall compare.
      spatial: (n, s) what sFID compares; None where the extractor has none.
      logits: (n, classes) before softmax, for the Inception Score; None where the
          extractor knows no classes.
    """

    pool: np.ndarray
    spatial: np.ndarray | None
    logits: np.ndarray | None


@runtime_checkable
class Extractor(Protocol):
    """Pictures (n, h, w, 3), uint8, to their features.

    Attributes:
      name: "inception", "inception_tf1" or "noised_clip"; figures of the last two
          carry it in their names.
      digest: The first 12 hex digits of a SHA-256 of the weights.
      px: The side at which the network reads pictures.
    """

    name: str
    digest: str
    px: int

    def __call__(self, pixels: image_io.PixelBatch) -> Features: ...


def load(
    spec: str,
    *,
    mesh: Mesh | None = None,
    classes: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
) -> Extractor:
    """The extractor that "inception:FILE", "inception_tf1:FILE" or "clip:BUNDLE" names.

    Args:
      spec: The network and where its weights lie.
      mesh: Of this process's devices, over which batches are spread; None: the
          default device.
      classes: Captions, for a CLIP alone: its logits are how well each of them fits,
          so that there is a zero-shot Inception Score.
      batch_size: Pictures at once.

    Raises:
      UserError: Another network; weights that are not there, damaged or of another
          kind of model; classes for the Inception, or a single one.
    """
    kind, _, place = spec.partition(":")
    if not place or kind not in (*_RESIZING, "clip"):
        raise UserError(
            f"features {spec!r} name no network; give clip:BUNDLE, a folder with a "
            "noised CLIP, or inception:FILE or inception_tf1:FILE, FID's published "
            "weights"
        )
    place = paths.local_text(place, f"features {kind}")
    if kind == "clip":
        model = restore.load_bundle(place, compute_dtype="float32", mesh=mesh)
        return ClipExtractor(model, classes, batch_size=batch_size, mesh=mesh)
    if classes:
        raise UserError(
            f"{len(classes)} classes for {kind}, which has {inception.NUM_CLASSES} of "
            "its own; give none, or features of a CLIP"
        )
    params, digest = inception_weights.read(place)
    return InceptionExtractor(params, kind, digest, batch_size=batch_size, mesh=mesh)


class InceptionExtractor:
    """FID's InceptionV3; `models.inception` says what the three features are.

    Pictures that are not square are squeezed into a square, as the reference does.
    """

    px = inception.PX

    def __init__(
        self,
        params: array_types.Params,
        name: str,
        digest: str,
        *,
        batch_size: int = BATCH_SIZE,
        mesh: Mesh | None = None,
    ):
        """`name` says how pictures are resized; `digest` is that of the weights."""
        self.name, self.digest = name, digest[:DIGEST_LENGTH]
        self._mesh, self._batch_size = mesh, batch_size
        place = None if mesh is None else sharding.replicated(mesh)
        self._params = jax.device_put(params, place)
        self._look = measured(
            functools.partial(inception.extract, resizing=_RESIZING[name])
        )

    def __call__(self, pixels: image_io.PixelBatch) -> Features:
        """Features of pictures of any size; a size not seen before is compiled for."""
        seen = in_batches(
            self._look, self._params, (pixels,), self._batch_size, self._mesh
        )
        return Features(*seen)


class ClipExtractor:
    """A noised CLIP at timestep 0, the least noise it knows.

    `pool` are the image features at length sqrt(d), so that a coordinate's mean square
    is 1. Training knows their directions only: lengths would be noise in a distance,
    and two CLIPs could not be compared. At that length distances order pictures as
    cosines do, a product divided by d is a cosine, as in KID's kernel, and a FID lies
    in [0, 4 d]. Logits are the cosines to the classes at the model's own temperature.

    Pictures of another size are cropped and resized as those of its training were:
    halved by box means, bicubic, the middle square.
    """

    name = "noised_clip"

    def __init__(
        self,
        model: restore.SampleModel,
        classes: Sequence[str] = (),
        *,
        batch_size: int = BATCH_SIZE,
        mesh: Mesh | None = None,
    ):
        """`model` is a CLIP whose parameters lie on `mesh`; the rest is as in `load`.

        Raises:
          UserError: A model of another kind, or a single class.
        """
        config = model.config.model
        if not isinstance(config, defaults.NoisedClipConfig):
            raise UserError(
                f"bundle {model.folder} is no CLIP (its model is {config.family}); "
                "name the bundle of a noised CLIP"
            )
        if len(classes) == 1:
            raise UserError(
                f"one class, {classes[0]!r:.60}, scores every picture alike; give at "
                "least two, or none"
            )
        self.px = config.image_px
        self.digest = restore.bundle_digest(model.folder)[:DIGEST_LENGTH]
        self._model, self._mesh, self._batch_size = model, mesh, batch_size
        self._encode_image = measured(self._traced_images)
        self._encode_text = measured(self._traced_captions)
        self._classes = self.text_features(classes) if classes else None

    def __call__(self, pixels: image_io.PixelBatch) -> Features:
        """Features of pictures of any size; `spatial` is None."""
        if pixels.shape[1:3] != (self.px, self.px):
            pixels = np.stack(
                [transforms.centre_crop(Image.fromarray(p), self.px) for p in pixels]
            )
        pool = self._in_batches(self._encode_image, image_io.from_pixels(pixels))
        if self._classes is None:
            return Features(pool, None, None)
        scale = np.float32(self._model.fns.logit_scale(self._model.params))
        cosines = pool @ self._classes.T / pool.shape[1]
        return Features(pool, None, scale * cosines)

    def text_features(self, captions: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Features of captions, comparable with `pool`: of the same length sqrt(d)."""
        caption = prompt_tokens.encode(self._model, list(captions))
        return self._in_batches(
            self._encode_text, caption.tokens[:, 0], caption.text_mask[:, 0]
        )

    def _traced_images(
        self, params: array_types.Params, images: jax.Array
    ) -> jax.Array:
        timesteps = jnp.zeros(images.shape[:1], jnp.int32)
        return _spread(self._model.fns.encode_image(params, images, timesteps))

    def _traced_captions(
        self, params: array_types.Params, tokens: jax.Array, text_mask: jax.Array
    ) -> jax.Array:
        return _spread(self._model.fns.encode_text(params, tokens, text_mask))

    def _in_batches(self, program: Callable[..., Any], *rows: array_types.Array) -> Any:
        params = self._model.params
        return in_batches(program, params, rows, self._batch_size, self._mesh)


def in_batches(
    program: Callable[..., Any],
    params: array_types.Params,
    rows: Sequence[array_types.Array],
    batch_size: int,
    mesh: Mesh | None,
) -> Any:
    """program(params, *rows) as numpy, at most `batch_size` rows at once.

    A batch is padded, as where pictures are drawn, so that few programs serve any
    number of rows; a row's result does not depend on the others.

    Raises:
      UserError: No rows.
    """
    count, parts = len(rows[0]), []
    if not count:
        raise UserError("no pictures to look at; give at least one")
    for start in range(0, count, batch_size):
        wanted = min(batch_size, count - start)
        size = batches.padded_size(wanted, batch_size, mesh)
        chosen = np.minimum(np.arange(start, start + size), count - 1)
        batch = [array[chosen] for array in rows]
        if mesh is not None:
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        found = jax.device_get(program(params, *batch))
        parts.append(jax.tree.map(operator.itemgetter(slice(wanted)), found))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def measured(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function jitted, its products in full float32 on every kind of device."""

    def full_precision(*arguments: Any) -> Any:
        with jax.default_matmul_precision("float32"):
            return function(*arguments)

    return jax.jit(full_precision)


def _spread(features: jax.Array) -> jax.Array:
    """Features at length sqrt(d)."""
    return noised_clip.normalise(features) * np.sqrt(features.shape[-1])

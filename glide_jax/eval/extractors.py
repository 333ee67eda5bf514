"""Networks that extract the features that the metrics compare.

  inception:FILE      the InceptionV3 of FID from its published weight file, pictures
                      resized as in pytorch-fid
  inception_tf1:FILE  the same, resized as in OpenAI's evaluator: for values that are
                      comparable with its own, and for its reference batches
  efficientnet_lite0  a classifier of photographs, from its installed package or, as
                      efficientnet_lite0:FILE, from its weight file; it guides nothing
  clip:BUNDLE         a noised CLIP, trained here or converted, at its least noise. It
                      needs no download. Its values are not comparable with published
                      ones, and their names begin with noised_clip.

Features are computed in float32 whatever the model's type, and do not depend on the
other pictures of a batch.
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
from glide_jax.convert import efficientnet as efficientnet_weights
from glide_jax.convert import inception as inception_weights
from glide_jax.data import transforms
from glide_jax.errors import UserError
from glide_jax.models import build, efficientnet, inception, noised_clip
from glide_jax.parallel import sharding
from glide_jax.runtime import paths
from glide_jax.sample import batches, image_io, prompt_tokens, restore

DIGEST_LENGTH = 12  # hexadecimal digits
BATCH_SIZE = 64  # that of OpenAI's evaluator
# Resizing of `models.inception`, by the name of the extractor.
_RESIZING = {"inception": "pytorch_fid", "inception_tf1": "tf1"}
EFFICIENTNET = "efficientnet_lite0"


class Features(NamedTuple):
    """Features of n pictures, float32 numpy.

    Attributes:
      pool: (n, d), compared by FID, KID, precision and recall.
      spatial: (n, s), compared by sFID; None if the extractor has none.
      logits: (n, classes) before softmax, for the Inception Score; None if the
        extractor has no classes.
    """

    pool: np.ndarray
    spatial: np.ndarray | None
    logits: np.ndarray | None


@runtime_checkable
class Extractor(Protocol):
    """Maps pictures (n, h, w, 3), uint8, to their features.

    Attributes:
      name: "inception", "inception_tf1", "efficientnet_lite0" or "noised_clip"; the
        names of values of all but the first begin with it.
      digest: The first 12 hexadecimal digits of a SHA-256 of the weights.
      px: The side at which the network reads pictures.
    """

    name: str
    digest: str
    px: int

    def __call__(self, pixels: image_io.PixelBatch) -> Features:
        """Returns the features of the pictures."""
        ...


def load(
    spec: str,
    *,
    mesh: Mesh | None = None,
    classes: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
) -> Extractor:
    """Returns the extractor of a spec, as the module's documentation lists them.

    Args:
      spec: The network and the path of its weights.
      mesh: Mesh of this process's devices, over which batches are spread; None: the
        default device.
      classes: Captions whose cosines are the logits of a CLIP, which gives a zero-shot
        Inception Score.
      batch_size: Pictures at once.

    Raises:
      UserError: The network is unknown; the weights are missing, damaged or of another
        kind of model; classes are given for a network with its own, or only one.
    """
    kind, _, place = spec.partition(":")
    is_known = kind in (*_RESIZING, "clip", EFFICIENTNET)
    if not is_known or not (place or spec == EFFICIENTNET):
        raise UserError(
            f"features {spec!r} are not KIND:PATH of a known kind; give clip:BUNDLE, a "
            "noised CLIP, inception:FILE or inception_tf1:FILE, FID's published "
            f"weights, or {EFFICIENTNET}"
        )
    if place:
        place = paths.local_text(place, f"features {kind}")
    if kind == "clip":
        model = restore.load_bundle(place, compute_dtype="float32", mesh=mesh)
        return ClipExtractor(model, classes, batch_size=batch_size, mesh=mesh)
    if classes:
        network = efficientnet if kind == EFFICIENTNET else inception
        raise UserError(
            f"{len(classes)} classes for {kind}, which has {network.NUM_CLASSES} of "
            "its own; give none, or features of a CLIP"
        )
    if kind == EFFICIENTNET:
        params = efficientnet_weights.read(place)
        return EfficientNetExtractor(params, batch_size=batch_size, mesh=mesh)
    params, digest = inception_weights.read(place)
    return InceptionExtractor(params, kind, digest, batch_size=batch_size, mesh=mesh)


class InceptionExtractor:
    """FID's InceptionV3; `models.inception` defines the three features.

    Pictures that are not square are resized to a square, as in the reference.
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
        """Takes the weights; `name` selects how pictures are resized."""
        self.name, self.digest = name, digest[:DIGEST_LENGTH]
        self._mesh, self._batch_size = mesh, batch_size
        place = None if mesh is None else sharding.replicated(mesh)
        self._params = jax.device_put(params, place)
        self._extract = measured(
            functools.partial(inception.extract, resizing=_RESIZING[name])
        )

    def __call__(self, pixels: image_io.PixelBatch) -> Features:
        """Returns features of pictures of any size; each new size is compiled once."""
        features = in_batches(
            self._extract, self._params, (pixels,), self._batch_size, self._mesh
        )
        return Features(*features)


class EfficientNetExtractor:
    """EfficientNet-Lite0; `models.efficientnet` defines the two features."""

    name = EFFICIENTNET
    digest = efficientnet_weights.DIGEST[:DIGEST_LENGTH]
    px = efficientnet.PX

    def __init__(
        self,
        params: array_types.Params,
        *,
        batch_size: int = BATCH_SIZE,
        mesh: Mesh | None = None,
    ):
        """Takes the weights."""
        self._mesh, self._batch_size = mesh, batch_size
        place = None if mesh is None else sharding.replicated(mesh)
        self._params = jax.device_put(params, place)
        self._extract = measured(efficientnet.extract)

    def __call__(self, pixels: image_io.PixelBatch) -> Features:
        """Returns features of pictures of any size; `spatial` is None."""
        features = in_batches(
            self._extract, self._params, (pixels,), self._batch_size, self._mesh
        )
        return Features(features.pool, None, features.logits)


class ClipExtractor:
    """A noised CLIP at timestep 0, its least noise.

    `pool` are the image features at length sqrt(d), so that a coordinate's mean square
    is 1. Training determines only the directions of features: their lengths would add
    noise to a distance, and two CLIPs could not be compared. At that length distances
    order pictures as cosines do, a product divided by d is a cosine, as in KID's
    kernel, and a FID is in [0, 4 d]. Logits are the cosines to the classes at the
    model's own temperature.

    Pictures of another size are cropped and resized as in training: halved by box
    means, bicubic, the middle square.
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
        """Takes a noised CLIP whose parameters are on `mesh`; see `load`.

        Raises:
          UserError: The model is of another family, or there is one class only.
        """
        self._fns = clip_functions(model)
        if len(classes) == 1:
            raise UserError(
                f"one class, {classes[0]!r:.60}, gives all pictures the same score; "
                "give at least two, or none"
            )
        self.px = model.config.model.image_px
        self.digest = restore.bundle_digest(model.folder)[:DIGEST_LENGTH]
        self._model, self._mesh, self._batch_size = model, mesh, batch_size
        self._encode_image = measured(self._traced_images)
        self._encode_text = measured(self._traced_captions)
        self._classes = self.text_features(classes) if classes else None

    def __call__(self, pixels: image_io.PixelBatch) -> Features:
        """Returns features of pictures of any size; `spatial` is None."""
        if pixels.shape[1:3] != (self.px, self.px):
            pixels = np.stack(
                [transforms.centre_crop(Image.fromarray(p), self.px) for p in pixels]
            )
        pool = self._in_batches(self._encode_image, image_io.from_pixels(pixels))
        if self._classes is None:
            return Features(pool, None, None)
        scale = np.float32(self._fns.logit_scale(self._model.params))
        cosines = pool @ self._classes.T / pool.shape[1]
        return Features(pool, None, scale * cosines)

    def text_features(self, captions: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Returns features of captions at length sqrt(d), comparable with `pool`."""
        caption = prompt_tokens.encode(self._model, list(captions))
        return self._in_batches(
            self._encode_text, caption.tokens[:, 0], caption.text_mask[:, 0]
        )

    def _traced_images(
        self, params: array_types.Params, images: jax.Array
    ) -> array_types.Features:
        timesteps = jnp.zeros(images.shape[:1], jnp.int32)
        return _spread(self._fns.encode_image(params, images, timesteps))

    def _traced_captions(
        self, params: array_types.Params, tokens: jax.Array, text_mask: jax.Array
    ) -> array_types.Features:
        return _spread(self._fns.encode_text(params, tokens, text_mask))

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
    """Returns program(params, *rows) as numpy, computed on `batch_size` rows at once.

    Batches are padded, so that few programs serve any number of rows; a row's result
    does not depend on the others.

    Raises:
      UserError: There are no rows.
    """
    count, parts = len(rows[0]), []
    if not count:
        raise UserError("no pictures are given; give at least one")
    for start in range(0, count, batch_size):
        wanted = min(batch_size, count - start)
        size = batches.padded_size(wanted, batch_size, mesh)
        chosen = np.minimum(np.arange(start, start + size), count - 1)
        batch = [array[chosen] for array in rows]
        if mesh is not None:
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        result = jax.device_get(program(params, *batch))
        parts.append(jax.tree.map(operator.itemgetter(slice(wanted)), result))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def measured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the jitted function, with products in full float32 on every device."""

    def full_precision(*arguments: Any) -> Any:
        with jax.default_matmul_precision("float32"):
            return function(*arguments)

    return jax.jit(full_precision)


def clip_functions(model: restore.SampleModel) -> build.ClipFns:
    """Returns the functions of a noised CLIP.

    Raises:
      UserError: The model is of another family.
    """
    if not isinstance(model.fns, build.ClipFns):
        raise UserError(
            f"bundle {model.folder} holds a model of family "
            f"{model.config.model.family}; name the bundle of a noised CLIP"
        )
    return model.fns


def _spread(features: array_types.Features) -> array_types.Features:
    """Scales features to length sqrt(d)."""
    return noised_clip.normalise(features) * np.sqrt(features.shape[-1])

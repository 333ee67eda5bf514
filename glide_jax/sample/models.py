"""The models of a cascade, checked to fit together."""

from __future__ import annotations

import pathlib
from typing import TypeVar

from jax.sharding import Mesh

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.parallel import device_mesh
from glide_jax.sample import restore, shipped

_Loaded = TypeVar("_Loaded", bound="Models")
_Folder = str | pathlib.Path | None


class Models:
    """A base model, an upsampler and a noised CLIP, or some of them.

    Attributes:
      upsampler: None: pictures keep the base model's size.
      clip: for CLIP guidance and the choice among candidates, or None.
    """

    def __init__(
        self,
        base: restore.SampleModel | None = None,
        upsampler: restore.SampleModel | None = None,
        clip: restore.SampleModel | None = None,
        *,
        mesh: Mesh | None = None,
    ):
        """Raises UserError if the models do not fit together.

        Args:
          base: from `restore.load_bundle`, like the others, on `mesh`; None: pictures
            can only be enlarged.
          upsampler: see the class.
          clip: see the class.
          mesh: devices over which batches are sharded; None: the default device.
        """
        check_models(base, upsampler, clip)
        self._base, self.upsampler, self.clip = base, upsampler, clip
        self._mesh = mesh

    @classmethod
    def load(
        cls: type[_Loaded],
        base: _Folder = None,
        upsampler: _Folder = None,
        clip: _Folder = None,
        *,
        fsdp: int = 1,
        compute_dtype: str | None = None,
    ) -> _Loaded:
        """Loads models from bundles onto every device of this process.

        Without any bundle they are those that come with the package, see `shipped`.

        Args:
          base: folder that `glide export` or `glide convert` wrote; None beside an
            upsampler: pictures can only be enlarged.
          upsampler: such a folder, or None.
          clip: such a folder, or None.
          fsdp: number of devices over which the parameters of each model are sharded,
            for models that one device cannot hold. Batches use all devices.
          compute_dtype: dtype of computation and of the matrices in memory,
            "float32", "bfloat16" or "float16"; None: the bundles'.

        Raises:
          UserError: a folder that is not a bundle or is damaged, bundles that do not
            fit together, or devices that fsdp does not divide.
        """
        folders = {"base": base, "upsampler": upsampler, "clip": clip}
        if not any(folders.values()):
            folders |= shipped.folders()
        mesh = device_mesh.make_local_mesh(fsdp)
        models = [
            None
            if folder is None
            else restore.load_bundle(folder, mesh=mesh, compute_dtype=compute_dtype)
            for folder in folders.values()
        ]
        return cls(*models, mesh=mesh)

    @property
    def num_stages(self) -> int:
        """The number of models that draw each image."""
        return (self._base is not None) + (self.upsampler is not None)

    @property
    def base(self) -> restore.SampleModel:
        """The base model.

        Raises:
          UserError: None was given.
        """
        if self._base is None:
            raise UserError(
                "without a base model pictures can only be enlarged; give its bundle"
            )
        return self._base

    @property
    def base_px(self) -> int:
        """The side of the base model's pictures."""
        if self._base is None:
            assert self.upsampler is not None
            return self.upsampler.unet.low_res_px
        return self._base.unet.image_px

    @property
    def image_px(self) -> int:
        """The side of the finished pictures."""
        return (self.upsampler or self.base).unet.image_px

    @property
    def models(self) -> dict[str, restore.SampleModel]:
        """The models that were given, by "base", "upsampler" and "clip"."""
        given = {"base": self._base, "upsampler": self.upsampler, "clip": self.clip}
        return {name: model for name, model in given.items() if model is not None}


def check_models(
    base: restore.SampleModel | None,
    upsampler: restore.SampleModel | None,
    clip: restore.SampleModel | None,
) -> None:
    """Raises UserError if the models do not fit together."""
    if upsampler is not None and _role(upsampler) != "upsampler":
        raise UserError(
            f"{upsampler.folder} is not an upsampler (model.low_res_px=0); give "
            "the bundle of an upsample256 run"
        )
    if base is None:
        if upsampler is None or clip is not None:
            raise UserError(
                "no base model was given, without which an upsampler can only enlarge "
                "pictures; give its bundle"
            )
        return
    if _role(base) != "base":
        raise UserError(
            f"{base.folder} is not a base model; give an upsampler as --upsampler "
            "and a noised CLIP as --clip"
        )
    if upsampler is not None:
        low_res_px, image_px = upsampler.unet.low_res_px, base.unet.image_px
        if low_res_px != image_px:
            raise UserError(
                f"{upsampler.folder} enlarges pictures of {low_res_px} px, but "
                f"{base.folder} draws {image_px} px; give the upsampler that was "
                "trained for this base model"
            )
    if clip is not None:
        check_clip(base.config, clip.config, str(base.folder), str(clip.folder))


def check_clip(
    base: defaults.Config, clip: defaults.Config, base_name: str, clip_name: str
) -> None:
    """Raises UserError if a noised CLIP cannot guide a base model.

    Args:
      base: settings of the base model.
      clip: settings of the CLIP.
      base_name: of the base model, for the error.
      clip_name: of the CLIP, for the error.
    """
    if build.role_of(clip.model) != "noised_clip":
        raise UserError(
            f"{clip_name} is not a noised CLIP (model.family={clip.model.family}); give"
            " the bundle of a noised_clip run"
        )
    if clip.model.image_px != base.model.image_px:
        raise UserError(
            f"{clip_name} reads {clip.model.image_px} px, but {base_name} draws "
            f"{base.model.image_px} px; give a CLIP of that size"
        )
    if clip.diffusion.noise != base.diffusion.noise:
        raise UserError(
            f"{clip_name} was trained under {clip.diffusion.noise}, {base_name} under "
            f"{base.diffusion.noise}; give a CLIP of the same noise"
        )


def _role(model: restore.SampleModel) -> str:
    return build.role_of(model.config.model)

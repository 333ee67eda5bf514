"""The models of a cascade, checked to fit together."""

from __future__ import annotations

import pathlib
from typing import TypeVar

import jax
from jax.sharding import Mesh

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.parallel import device_mesh
from glide_jax.sample import model_checks, restore

_Loaded = TypeVar("_Loaded", bound="Models")


class Models:
    """A base model, an upsampler and a noised CLIP, or some of them."""

    def __init__(
        self,
        base: restore.SampleModel | None = None,
        upsampler: restore.SampleModel | None = None,
        clip: restore.SampleModel | None = None,
        *,
        mesh: Mesh | None = None,
    ):
        """Raises UserError where the models do not belong together.

        Args:
          base: As from `restore.load_bundle`, like the others placed on `mesh`. None:
              pictures can be enlarged, nothing else.
          upsampler: None: pictures stay small.
          clip: For guidance by it and choice among candidates.
          mesh: Devices that batches are spread over; None: the default device.
        """
        model_checks.check_models(base, upsampler, clip)
        self._base, self.upsampler, self.clip = base, upsampler, clip
        self._mesh = mesh

    @classmethod
    def load(
        cls: type[_Loaded],
        base: str | pathlib.Path | None = None,
        upsampler: str | pathlib.Path | None = None,
        clip: str | pathlib.Path | None = None,
        *,
        fsdp: int = 1,
        compute_dtype: str | None = None,
    ) -> _Loaded:
        """The models in bundles, on every device of this machine.

        Args:
          base, upsampler, clip: Folders that `glide export` or `glide convert` wrote;
              without a base model pictures can be enlarged, nothing else.
          fsdp: Devices that each model's parameters are spread over, for models that
              one device cannot hold; batches are spread over all devices anyway.
          compute_dtype: "float32", "bfloat16" or "float16", in which the models
              compute and keep their matrices; None: the bundles'.

        Raises:
          UserError: A folder that is not a bundle or is damaged; bundles that do not
              belong together; devices that fsdp does not divide.
        """
        mesh = None
        if jax.device_count() > 1:
            mesh = device_mesh.make_mesh(defaults.MeshConfig(data=-1, fsdp=fsdp))
        elif fsdp != 1:
            raise UserError(f"fsdp={fsdp}, but there is one device; leave it 1")
        models = [
            None
            if folder is None
            else restore.load_bundle(folder, mesh=mesh, compute_dtype=compute_dtype)
            for folder in (base, upsampler, clip)
        ]
        return cls(*models, mesh=mesh)

    @property
    def num_stages(self) -> int:
        """Models that each image passes: a progress total is images times this."""
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
        """Side of the base model's pictures."""
        if self._base is None:
            return self.upsampler.config.model.low_res_px
        return self._base.config.model.image_px

    @property
    def image_px(self) -> int:
        """Side of the finished pictures."""
        return (self.upsampler or self.base).config.model.image_px

    @property
    def models(self) -> dict[str, restore.SampleModel]:
        """The models that were given, by "base", "upsampler" and "clip"."""
        given = {"base": self._base, "upsampler": self.upsampler, "clip": self.clip}
        return {name: model for name, model in given.items() if model is not None}

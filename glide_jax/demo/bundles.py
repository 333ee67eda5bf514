"""The bundles that the page draws with."""

from __future__ import annotations

import dataclasses

from glide_jax.sample import cascade, shipped


@dataclasses.dataclass(frozen=True)
class Bundles:
    """Folders of bundles.

    Attributes:
      base: the base model.
      upsampler: its upsampler, or None.
      clip: the noised CLIP, or None.
      fill_base: the base model that repaints; None: `base`.
      fill_upsampler: the upsampler of `fill_base`; None: `upsampler`.
    """

    base: str
    upsampler: str | None = None
    clip: str | None = None
    fill_base: str | None = None
    fill_upsampler: str | None = None

    def flags(self, verb: str) -> list[tuple[str, str]]:
        """Returns the flags of the models of a verb, (name, folder) each."""
        base, upsampler = self.base, self.upsampler
        if verb == "inpaint":
            base = self.fill_base or base
            upsampler = self.fill_upsampler or upsampler
        named = {"base": base, "upsampler": upsampler, "clip": self.clip}
        return [(name, folder) for name, folder in named.items() if folder]


def find_default() -> Bundles:
    """Returns the bundles that are used without flags: those of the package.

    Raises:
      UserError: the installation lacks them.
    """
    return Bundles(**{name: str(path) for name, path in shipped.folders().items()})


@dataclasses.dataclass(frozen=True)
class Models:
    """The loaded bundles.

    Attributes:
      bundles: their folders.
      draw: the models that draw and edit.
      fill: the models that repaint.
      placement: the flags of their dtype and devices, (name, value) each.
    """

    bundles: Bundles
    draw: cascade.Glide
    fill: cascade.Glide
    placement: tuple[tuple[str, str], ...] = ()

    def of(self, verb: str) -> cascade.Glide:
        """Returns the models of "sample", "inpaint" or "edit"."""
        return self.fill if verb == "inpaint" else self.draw


def load(
    bundles: Bundles, *, fsdp: int = 1, compute_dtype: str | None = None
) -> Models:
    """Loads the bundles; the arguments are those of `Glide.load`.

    Raises:
      UserError: as `Glide.load`.
    """
    placement = []
    if fsdp != 1:
        placement.append(("fsdp", str(fsdp)))
    if compute_dtype is not None:
        placement.append(("compute_dtype", compute_dtype))

    def models(verb: str) -> cascade.Glide:
        folders = dict(bundles.flags(verb))
        return cascade.Glide.load(**folders, fsdp=fsdp, compute_dtype=compute_dtype)

    draw = fill = models("sample")
    if bundles.flags("inpaint") != bundles.flags("sample"):
        fill = models("inpaint")
    return Models(bundles, draw, fill, tuple(placement))

"""glide_jax: train and run GLIDE, the text-guided diffusion cascade, in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glide_jax.sample.cascade import Glide

__version__ = "0.1.0"
__all__ = ["Glide"]


def __getattr__(name: str) -> Any:
    """Imports `Glide` on first use, because its import starts JAX."""
    if name == "Glide":
        from glide_jax.runtime import user_cache

        user_cache.keep_programs()
        from glide_jax.sample.cascade import Glide

        return Glide
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

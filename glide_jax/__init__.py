"""glide_jax: train and run GLIDE, the text-guided diffusion cascade, in JAX."""

__version__ = "0.1.0"

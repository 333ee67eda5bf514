"""The diffusion process as arithmetic on arrays: no network, no files, no config."""

"""Device meshes, and the shardings of arrays on them."""

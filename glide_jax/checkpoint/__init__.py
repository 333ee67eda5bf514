"""Training states on disk (Orbax), and the bundle that sampling reads."""

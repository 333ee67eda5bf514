"""Training states, shared (Orbax) and local, and the bundle that sampling reads."""

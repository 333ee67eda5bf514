"""The networks as pure functions of a parameter tree; Flax stays behind this folder."""

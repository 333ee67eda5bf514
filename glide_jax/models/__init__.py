"""Networks as pure functions of a parameter tree; Flax is used in this folder only."""

"""From configuration and data to checkpoints: state, objectives, step and loop."""

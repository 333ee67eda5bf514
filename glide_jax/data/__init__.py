"""From image-text records to numpy batches, as a function of (seed, step)."""

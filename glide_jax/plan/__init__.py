"""Planning a run for machines that are not here: bytes, operations, days, cost."""

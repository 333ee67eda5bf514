"""Plans a run on other machines: memory, operations, time, cost."""

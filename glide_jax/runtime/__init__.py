"""Files, locks, signals, progress, metrics and random streams of a running program."""

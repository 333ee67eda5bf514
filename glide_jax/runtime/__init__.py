"""Paths, lines of text, and the order of names."""

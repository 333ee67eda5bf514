"""Runs that are cut off, damaged and started again, beside one that is left alone."""

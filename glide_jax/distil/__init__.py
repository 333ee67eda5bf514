"""Distils the models of a cascade to few steps, one training run after the other."""

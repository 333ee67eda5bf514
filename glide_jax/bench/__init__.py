"""Benchmarks of training and sampling."""

"""Trains, samples and evaluates the whole system at toy size."""

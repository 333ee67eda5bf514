"""Preparation of large sets of pairs: rules, duplicates, shards, on Apache Beam."""

"""Judging samples: does the picture show what its caption says, and how well."""

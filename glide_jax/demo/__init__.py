"""A page in the browser that draws, repaints, edits, compares and votes."""

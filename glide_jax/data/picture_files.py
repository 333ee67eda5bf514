"""Says which files are pictures."""

from __future__ import annotations

# Suffixes of the formats that are decoded, lower-case. Files carry them in any case.
SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    }
)

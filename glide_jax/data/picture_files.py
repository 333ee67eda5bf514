"""Which picture files are read, by format and by suffix."""

from __future__ import annotations

# The formats that Pillow may try. It knows forty more, and hands some of them to other
# programs (EPS to Ghostscript). PPM covers PBM, PGM and PNM.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")
# The suffixes of these formats, compared in lower case.
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jfif", ".jpe"),
        *(".png", ".webp", ".gif", ".bmp"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    }
)

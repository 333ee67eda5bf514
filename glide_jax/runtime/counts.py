"""Writes a number with its noun."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """ "1 picture", "2,000 pictures": the noun is regular and in the singular."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

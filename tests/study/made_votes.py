"""Votes made from ratings, as people with those preferences would cast them."""

from __future__ import annotations

import itertools

import numpy as np

from glide_jax.study import elo, pairs, votes

# Tables 1 and 4 of the paper.
TABLE_1 = {
    "photorealism": {"unguided": -88.6, "clip_2.0": -73.2, "cfg_3.0": 82.7},
    "caption": {"unguided": -106.2, "clip_2.0": 29.3, "cfg_3.0": 110.9},
}
TABLE_4 = {
    "photorealism": {"small@1": -131.8, "small@4": 28.2, "big@1": -23.9, "big@3": 133},
    "caption": {"small@1": -136.4, "small@4": 70.9, "big@1": -27.1, "big@3": 140.5},
}


def cast(
    ratings: dict[str, float],
    question: str,
    count: int,
    *,
    rng: np.random.Generator,
    tie_prob: float = 0.0,
) -> list[votes.Vote]:
    """`count` votes on each two models; with half its ties a model has its win rate."""
    names = list(ratings)
    rates = elo.win_rates(np.array(list(ratings.values()), float))
    cast = []
    for i, j in itertools.combinations(range(len(names)), 2):
        for _ in range(count):
            chosen = rng.random()
            wins = rates[i, j] - tie_prob / 2
            ties = wins + tie_prob
            winner = names[i] if chosen < wins else names[j]
            winner = pairs.TIE if wins <= chosen < ties else winner
            cast.append(votes.Vote(names[i], names[j], winner, question))
    return cast


def write(path, rows, columns=votes.COLUMNS) -> str:
    """A file of votes; returns its path."""
    lines = [",".join(columns), *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)

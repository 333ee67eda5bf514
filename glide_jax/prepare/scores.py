"""Columns of scores. TEMPORARY."""


def make_scorer(work):
    raise AssertionError


def train(work, ledger):
    return ()

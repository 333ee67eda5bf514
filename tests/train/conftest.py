"""Small runs that share one tokenizer and cheap compilation."""

from __future__ import annotations

import functools
import pathlib

import pytest

from tests.train import small_runs


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> pathlib.Path:
    """A tokenizer, trained once for every run here."""
    return small_runs.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def make_config(tokenizer_folder):
    """make_config(CLIP, {"train.num_steps": 4}) -> settings of a small run."""
    return functools.partial(small_runs.make_config, tokenizer_folder)

"""The small runs of the training tests."""

from tests.train.conftest import (  # noqa: F401
    make_config,
    tokenizer_folder,
)

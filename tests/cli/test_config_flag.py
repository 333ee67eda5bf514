"""Lists of data sources need no quotes on the command line."""

from __future__ import annotations

import pytest
from absl import flags

from glide_jax.cli import config_flag, main


def read(experiment, *words: str):
    values = flags.FlagValues()
    config_flag.define(values)
    main.parse(values, ["glide train", f"--config={experiment}", *words])
    return config_flag.read(values, example="a.py").data


@pytest.mark.parametrize(
    ("given", "sources"),
    [
        ("folder:photos", ("folder:photos",)),
        ("folder:my photos, 2024", ("folder:my photos, 2024",)),
        ("folder:a,shapes:full", ("folder:a", "shapes:full")),
        ("folder:a, tfds:b?split=train", ("folder:a", "tfds:b?split=train")),
        ("webdataset:{a,b}-{0..9}.tar", ("webdataset:{a,b}-{0..9}.tar",)),
        ("('folder:a,folder:b',)", ("folder:a,folder:b",)),
        ("('folder:a', 'folder:b')", ("folder:a", "folder:b")),
        ("", ()),
    ],
)
@pytest.mark.parametrize("name", ["sources", "validation_sources"])
def test_a_list_of_sources_is_read_with_and_without_quotes(
    experiment, given, sources, name
):
    flag = f"--config.data.{name}"
    assert getattr(read(experiment, f"{flag}={given}"), name) == sources
    assert getattr(read(experiment, flag, given), name) == sources

"""What is not finished goes away, with its process or with the next one."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from glide_jax.runtime import scratch_dirs
from tests import fake_devices

WORK = """
import pathlib, sys, time
from glide_jax.runtime import scratch_dirs
with scratch_dirs.made(pathlib.Path(sys.argv[1]), "set") as draft:
    (draft / "half").write_text("a record")
    print(draft.name, flush=True)
    time.sleep(600)
"""


def names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_draft_is_gone_however_its_block_ends(tmp_path):
    with scratch_dirs.made(tmp_path, "set") as draft:
        (draft / "set").mkdir()
        (draft / "set").rename(tmp_path / "set")
    with pytest.raises(KeyError), scratch_dirs.made(tmp_path, "other") as draft:
        raise KeyError
    assert names(tmp_path) == {"set"}


def test_what_a_killed_process_left_is_removed_by_the_next_and_no_living_ones(
    tmp_path,
):
    command = [sys.executable, "-c", WORK, str(tmp_path)]
    with (
        subprocess.Popen(
            command, cwd=fake_devices.ROOT, stdout=subprocess.PIPE, text=True
        ) as process,
        scratch_dirs.made(tmp_path, "other") as other,
    ):
        left = process.stdout.readline().strip()
        with scratch_dirs.made(tmp_path, "set") as draft:
            assert names(tmp_path) == {left, other.name, draft.name}
        process.kill()
        process.wait()
        assert (tmp_path / left / "half").exists()
        with (
            scratch_dirs.made(tmp_path, "set") as draft,
            scratch_dirs.made(tmp_path, "set"),
        ):
            assert draft.exists()
            assert not (tmp_path / left).exists()
        assert names(tmp_path) == {other.name}

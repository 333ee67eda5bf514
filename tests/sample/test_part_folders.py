"""Parts of a run: what is complete, what is drawn again, and their collection."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from glide_jax import errors
from glide_jax.sample import output_folder, part_folders
from tests.sample import test_output_folder as runs

COUNT = 6
SPANS = [(0, 2), (2, 4), (4, 6)]


def write_parts(folder, spans=SPANS):
    for first, stop in spans:
        pictures, record = runs.batch(range(first, stop), COUNT)
        record["settings"]["first_index"] = 0
        part_folders.write(folder, (first, stop), pictures, record)
    return record


def test_collected_parts_leave_what_one_process_leaves(tmp_path):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for folder in (parts, whole):
        folder.mkdir()
    record = write_parts(parts)
    assert part_folders.complete(parts, record, 0) == SPANS
    part_folders.collect(parts, SPANS, [], record)
    pictures, record = runs.batch(range(COUNT), COUNT)
    output_folder.add(whole, pictures, record)
    assert runs.contents(parts) == runs.contents(whole)


def test_a_part_without_its_record_or_a_picture_is_drawn_again(tmp_path):
    record = write_parts(tmp_path)
    part_folders.record_of(tmp_path, (0, 2)).unlink()
    (part_folders.path(tmp_path, (4, 6)) / "000005.png").unlink()
    assert part_folders.complete(tmp_path, record, 0) == [(2, 4)]
    write_parts(tmp_path, [(0, 2), (4, 6)])
    assert part_folders.complete(tmp_path, record, 0) == SPANS


def test_parts_of_another_command_are_refused_with_the_difference(tmp_path):
    record = write_parts(tmp_path)
    other = {**record, "asked": {**record["asked"], "flags": {"seed": 1}}}
    with pytest.raises(
        errors.UserError, match=r"--seed is 0 there and 1 here;.*remove"
    ):
        part_folders.complete(tmp_path, other, 0)
    with pytest.raises(errors.UserError, match="index of the first picture differs"):
        part_folders.complete(tmp_path, record, 4)


@pytest.mark.parametrize("moved", [2, 5, 8])
def test_a_process_killed_while_it_collects_leaves_parts_to_collect(tmp_path, moved):
    folder, whole = tmp_path / "out", tmp_path / "whole"
    for made in (folder, whole):
        made.mkdir()
    record = write_parts(folder)
    script = f"""
    import os, pathlib, signal
    from glide_jax.sample import part_folders
    from tests.sample import test_part_folders as tests

    folder, record = pathlib.Path({str(folder)!r}), {record!r}
    real, left = pathlib.Path.replace, [{moved}]

    def replace(*arguments):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*arguments)

    pathlib.Path.replace = replace
    part_folders.collect(folder, tests.SPANS, [], record)
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(run, check=False).returncode == -9
    request = {**record, "images": []}
    assert runs.start(folder, request) == (0, 0)
    assert part_folders.complete(folder, request, 0) == SPANS
    part_folders.collect(folder, SPANS, [], record)
    pictures, record = runs.batch(range(COUNT), COUNT)
    output_folder.add(whole, pictures, record)
    assert runs.contents(folder) == runs.contents(whole)

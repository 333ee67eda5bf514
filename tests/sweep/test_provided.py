"""Every sweep file of the project can be started unchanged."""

from __future__ import annotations

import pytest

from glide_jax.cli import main
from glide_jax.sweep import sweep_file
from tests import fake_devices

FOLDER = fake_devices.ROOT / "experiments" / "sweeps"
COUNTS = {
    "caption_drop": 8,
    "curves": 9,
    "ema_horizon": 5,
    "guidance_scale": 14,
    "icons": 5,
    "low_res_corruption": 7,
    "lr_batch": 6,
    "respacing": 16,
}
# Their pictures and models are made by other commands.
NEED_INPUTS = ("icons",)


def test_all_files_are_known_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_its_runs_are_accepted_by_the_verb_that_they_start(name, capsys, monkeypatch):
    monkeypatch.chdir(fake_devices.ROOT)
    path = FOLDER / f"{name}.py"
    verb = sweep_file.load(path).command[0]
    flags = ["--root=absent", "--dry_run"]
    flags += ["--nocheck_inputs"] * (name in NEED_INPUTS)
    assert main.run(["sweep", str(path), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) == COUNTS[name]
    assert all(line.startswith(f"glide {verb} ") for line in lines)

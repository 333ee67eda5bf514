"""`glide verify` names damaged files, without devices, by a separate exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from glide_jax.checkpoint import folders, manifest
from glide_jax.cli import main
from tests import fake_devices


@pytest.fixture
def run(workdir, tmp_path):
    """A trained workdir and its bundle, to damage."""
    return shutil.copytree(workdir, tmp_path / "run")


def verify(capsys, *argv):
    capsys.readouterr()
    code = main.run(["verify", *map(str, argv)])
    return code, capsys.readouterr().out.splitlines()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_as_it_was_written_is_all_good(run, capsys):
    code, lines = verify(capsys, run, run / "bundle")
    assert code == 0
    (step,) = folders.list_steps(run / "checkpoints")
    assert len(lines) == 2
    assert lines[0].startswith(f"{run}: workdir, ")
    assert lines[0].endswith(f"MiB read, no damage; valid checkpoints: {step}")
    assert lines[1].startswith(f"{run / 'bundle'}: bundle, ")


@pytest.mark.parametrize("name", ["config.json", "tokenizer", "checkpoints", "bundle"])
def test_every_damaged_file_of_a_run_is_named(run, name, capsys):
    top = run / name
    files = [p for p in sorted(top.rglob("*")) if p.is_file()] or [top]
    folder = run / "bundle" if name == "bundle" else run
    for path in files:
        if path.name == "bundle.json":
            continue  # has a test of its own
        whole = path.read_bytes()
        for damage in (flip, lambda path: path.unlink()):
            damage(path)
            code, lines = verify(capsys, folder)
            assert code == 3
            assert [line.split(": ")[0] for line in lines] == [str(path), str(folder)]
            path.write_bytes(whole)


def test_a_damaged_checkpoint_is_distinguished_from_the_good_ones(run, capsys):
    (step,) = folders.list_steps(run / "checkpoints")
    older = shutil.copytree(run / "checkpoints" / str(step), run / "checkpoints" / "0")
    (run / "checkpoints" / "9.unfinished").mkdir()
    code, lines = verify(capsys, run, "--json")
    assert code == 3
    (told,) = map(json.loads, lines)
    assert told["folder"] == str(run)
    assert told["damaged"] == {"checkpoints/0/manifest.json": f"is of step {step}"}
    assert (told["good_steps"], told["bad_steps"]) == ([step], [0])
    assert told["surplus"] == ["checkpoints/9.unfinished"]
    shutil.rmtree(older)
    code, lines = verify(capsys, run)
    assert code == 0
    assert lines[0] == f"{run}/checkpoints/9.unfinished: surplus, not used"


def test_one_checkpoint_is_checked_by_itself(run, capsys):
    (step,) = folders.list_steps(run / "checkpoints")
    folder = run / "checkpoints" / str(step)
    code, lines = verify(capsys, folder)
    assert code == 0
    assert lines[0].startswith(f"{folder}: checkpoint, ")
    assert lines[0].endswith("MiB read, no damage")
    flip(folder / "meta.json")
    code, lines = verify(capsys, folder)
    assert code == 3
    assert lines[0] == f"{folder / 'meta.json'}: has another SHA-256"


def test_a_checkpoint_that_a_run_deletes_meanwhile_is_not_damaged(
    run, capsys, monkeypatch
):
    (step,) = folders.list_steps(run / "checkpoints")
    find_damages = manifest.find_damages

    def delete_first(folder, files):
        if folder.name == str(step):
            shutil.rmtree(folder)
        return find_damages(folder, files)

    monkeypatch.setattr(manifest, "find_damages", delete_first)
    code, lines = verify(capsys, run)
    assert code == 0
    assert lines[-1].endswith("no damage; valid checkpoints: none")


def test_a_bundle_whose_list_is_cut_or_gone_is_damaged(run, capsys):
    mark = run / "bundle" / "bundle.json"
    mark.write_bytes(mark.read_bytes()[:-10])
    code, lines = verify(capsys, run / "bundle")
    assert code == 3
    assert lines[0] == f"{mark}: is damaged"
    mark.unlink()
    code, lines = verify(capsys, run / "bundle")
    assert code == 3
    assert lines[0] == f"{mark}: is missing"


@pytest.mark.parametrize("argv", [[], ["absent"], ["."]])
def test_what_is_neither_is_a_mistake(refused, argv):
    named = "give workdirs or bundles" if not argv else "neither a workdir"
    assert named in refused("verify", *argv)


def test_a_workdir_without_a_checkpoint_is_a_mistake(run, refused):
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint to verify" in refused("verify", str(run))


def test_no_device_is_initialised(run):
    code = (
        "from glide_jax.cli import main\n"
        f"assert main.run(['verify', {str(run)!r}, {str(run / 'bundle')!r}]) == 0\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=fake_devices.ROOT, check=True)

"""Selection of the files that are copied to the hosts."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

from tests.launch import launchers

COMMAND = ("--name=base64", "--hosts=gpu1", "--workdir=/nfs/run", "--dry_run")


def git(folder: pathlib.Path, *arguments: str) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    command = ["git", *identity, *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """The launchers in a repository of their own, with an untracked environment."""
    folder = tmp_path / "check out"
    shutil.copytree(launchers.LAUNCH, folder / "launch")
    configs = folder / "experiments" / "configs"
    configs.mkdir(parents=True)
    for name in ("base64.py", "deleted.py"):
        (configs / name).write_text("")
    (folder / "setup.py").write_text("")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "all")
    for name in (".venv/bin/python", "runs/base/config.json", "launch/__pycache__/x"):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
    return folder


def launch(checkout, *flags: str, config="base64.py:tiny") -> tuple[list[str], str]:
    """What is said, and the script that would run."""
    result = subprocess.run(
        [checkout / "launch" / "ssh.sh", f"--config={config}", *COMMAND, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "VIRTUAL_ENV": str(checkout)},
    )
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    return [line for line in lines if "settings are not checked" not in line], (
        result.stdout
    )


def copied(script: str, checkout) -> set[str]:
    """The files that the script's own command lists."""
    (line,) = [line for line in script.splitlines() if " | rsync " in line]
    command = f". launch/code.sh && {line.split(' | ')[0]}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=checkout, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rstrip("\0").split("\0"))


def test_tracked_files_are_copied_from_the_working_tree(checkout):
    (checkout / "experiments" / "configs" / "deleted.py").unlink()
    lines, script = launch(checkout)
    assert lines == [], "an environment and runs are not worth a line"
    files = copied(script, checkout)
    assert {"setup.py", "launch/code.sh", "experiments/configs/base64.py"} <= files
    assert not [name for name in files if name.startswith((".", "runs"))]
    assert not {"experiments/configs/deleted.py", "launch/__pycache__/x"} & files


def test_files_that_are_not_copied_are_reported(checkout):
    photos = checkout / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(b"x" * 2**20)
    for name in ("notes.txt", "a.txt", "launch/b b.txt"):
        (checkout / name).write_text("x" * 9000)
    lines, script = launch(checkout)
    (line,) = lines
    assert line.startswith("ssh.sh: left behind: 6 files, 3 MB (not tracked by git): ")
    assert "photos/ 3 MB, " in line
    assert " and 1 more; git add what the hosts need" in line
    files = copied(script, checkout)
    assert not {"photos/0.jpg", "notes.txt", "launch/b b.txt"} & files


def test_untracked_files_in_flags_are_copied_and_reported(checkout):
    own = checkout / "own"
    own.mkdir()
    for name in ("config.py", "my setup.sh", "mount.sh"):
        (own / name).write_text("")
    lines, script = launch(
        checkout, "--setup=bash own/mount.sh /nfs", config="own/config.py:tiny"
    )
    of_config, of_setup, stays = lines
    told = "ssh.sh: copied too, though git does not track it: "
    assert of_config == f"{told}own/config.py (--config names it)"
    assert of_setup == f"{told}own/mount.sh (--setup names it)"
    assert "left behind: 1 file, " in stays
    files = copied(script, checkout)
    assert {"own/config.py", "own/mount.sh"} <= files
    assert "own/my setup.sh" not in files


def test_hosts_get_the_path_of_the_configuration_in_the_copy(checkout):
    path = checkout / "experiments" / "configs" / "base64.py"
    lines, script = launch(checkout, config=f"{path}:tiny")
    assert lines == []
    assert "-- --config=experiments/configs/base64.py:tiny\n" in script


def test_files_of_this_machine_only_are_reported(checkout, tmp_path):
    (tmp_path / "own.py").write_text("")
    lines, _ = launch(
        checkout,
        "--config.train.init_from=runs/base",
        "--config.data.sources=('folder:/nfs/photos',)",
        config=f"{tmp_path}/own.py",
    )
    outside, run = lines
    assert f"--config={tmp_path}/own.py is not in {checkout}" in outside
    assert "--config.train.init_from=runs/base: runs/base of this machine is" in run


def test_without_git_the_projects_folders_are_copied(checkout):
    shutil.rmtree(checkout / ".git")
    (checkout / "photos").mkdir()
    (checkout / "photos" / "a.jpg").write_text("x")
    lines, script = launch(checkout)
    what, stays = lines
    assert what.startswith("ssh.sh: git tracks nothing here; copied are: glide_jax exp")
    assert stays.startswith("ssh.sh: left behind: 1 file, ")
    assert ": photos " in stays
    files = copied(script, checkout)
    assert {"setup.py", "launch/code.sh", "experiments/configs/base64.py"} <= files
    assert not {"photos/a.jpg", "launch/__pycache__/x"} & files


def test_a_repository_that_git_rejects_is_an_error(checkout):
    (checkout / ".git" / "HEAD").unlink()
    command = [checkout / "launch" / "ssh.sh", "--config=base64.py:tiny", *COMMAND]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = [one for one in result.stderr.splitlines() if "not checked" not in one]
    assert "git cannot list the files of " in line


def test_an_image_has_the_files_that_a_run_needs():
    """Each top-level name that git tracks is copied, or a run does not need it."""
    ignore = (launchers.LAUNCH / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    let_in = {name.removeprefix("!") for name in ignore if name.startswith("!")}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=launchers.ROOT, capture_output=True, text=True
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("no git repository here")
    tracked = {name.split("/")[0] for name in listed.stdout.split()}
    assert let_in <= tracked
    others = {name for name in tracked - let_in if not name.startswith(".")}
    pages = {"docs", "examples", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert others == {*pages, "tests", "MANIFEST.in"}

"""`~` in a launcher's paths: this machine's home folder, or an error."""

from __future__ import annotations

import re

import pytest

from tests import fake_devices
from tests.launch import launchers


def run(tmp_path, name: str, *flags: str):
    """A dry run of an engine with another --workdir or --config."""
    given = [flag.partition("=")[0] for flag in flags]
    script, *before = launchers.COMMANDS[name]
    kept = [flag for flag in before if flag.partition("=")[0] not in given]
    command = (script, *kept, *flags, "--dry_run")
    return launchers.run(command, environment={"HOME": str(tmp_path)})


def test_slurm_nodes_have_the_paths_of_this_machine(tmp_path):
    result = run(tmp_path, "slurm", "--workdir=~/runs/base")
    assert result.returncode == 0, result.stderr
    assert f"--workdir={tmp_path}/runs/base" in result.stdout
    assert "~" not in result.stdout


@pytest.mark.parametrize("name", [n for n in launchers.COMMANDS if n != "slurm"])
def test_hosts_with_different_home_folders_reject_it(tmp_path, name):
    result = run(tmp_path, name, "--workdir=~/runs/base")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "--workdir=~/runs/base: " in line


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("slurm", "--workdir=~alice/runs"),
        ("gke", "--config=~alice/base.py:tiny"),
        ("ssh", "--folder=~/glide_jax"),
    ],
)
def test_other_uses_of_the_tilde_are_errors(tmp_path, name, flag):
    result = run(tmp_path, name, flag)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert flag in line


@pytest.mark.parametrize("name", ["slurm", "gke", "ssh"])
def test_a_configuration_in_the_home_folder_is_found(tmp_path, name):
    own = fake_devices.ROOT / "experiments" / "configs" / "base64.py"
    (tmp_path / "own.py").write_text(own.read_text())
    result = run(tmp_path, name, "--config=~/own.py:paper")
    assert result.returncode == 0, result.stderr
    assert f"--config={tmp_path}/own.py:paper" in result.stdout


@pytest.mark.parametrize("name", ["base64:paper", "base64.py:paper"])
def test_a_configuration_of_the_project_is_found_by_its_name(tmp_path, name):
    result = run(tmp_path, "slurm", f"--config={name}")
    assert result.returncode == 0, result.stderr
    assert "--config=experiments/configs/base64.py:paper" in result.stdout


def test_hosts_with_tpus_need_no_gpus(tmp_path):
    command = [flag for flag in launchers.COMMANDS["ssh"] if "--gpus=" not in flag]
    command = [re.sub("--chip=.*", "--chip=v5p", flag) for flag in command]
    result = launchers.run((*command, "--dry_run"))
    assert result.returncode == 0, result.stderr
    assert "the settings are not checked" in result.stderr

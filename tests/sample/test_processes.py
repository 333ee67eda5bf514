"""Sampling and evaluation by several processes, started as on several hosts."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import local_processes

GLIDE = [sys.executable, "-m", "glide_jax.cli.main"]
DEVICES = 2  # of each process, and of the one that they are compared with


def alone(command: list[str]) -> None:
    """Runs a command in one process."""
    more = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(DEVICES)}
    environment = local_processes.environment(NPROC=str(4 * DEVICES), **more)
    subprocess.run([*GLIDE, *command], env=environment, check=True)


def together(logs: pathlib.Path, command: list[str], **keywords) -> None:
    """Runs a command in two processes to its end."""
    local_processes.run(logs, [*GLIDE, *command], devices=DEVICES, **keywords)


def cut_off(logs: pathlib.Path, command: list[str], parts: pathlib.Path, whom) -> None:
    """Starts two processes, and kills `whom` (a number; None: all) at the next part.

    The launcher, if it is left, ends with the code of a run to start again.
    """
    before = set(parts.glob("[0-9]*"))
    launcher = local_processes.start(logs, [*GLIDE, *command], devices=DEVICES)
    with local_processes.ended(launcher):
        while before == set(parts.glob("[0-9]*")):
            assert launcher.poll() is None, local_processes.logs_of(logs)
            time.sleep(0.02)
        if whom is None:
            os.killpg(launcher.pid, signal.SIGKILL)
            return
        victim = local_processes.process_of(launcher.pid, whom)
        os.kill(victim, signal.SIGKILL)
        # 42 if the others were told to stop first.
        code = launcher.wait(timeout=300)
        assert code == 42 or code >= 128, local_processes.logs_of(logs)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_pictures_are_those_of_one_process_after_the_loss_of_either(bundles, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a big {hue} circle\n" for hue in "rgb" * 3))
    command = ["sample", f"--base={bundles['base']}", f"--prompt_file={prompts}"]
    command += [f"--upsampler={bundles['upsampler']}", "--batch_size=2"]
    command += ["--respacing=3", "--upsampler_respacing=2"]
    alone([*command, f"--output={tmp_path / 'one'}"])
    two = tmp_path / "two"
    shared = [*command, f"--output={two}"]
    for whom in (1, 0):
        cut_off(tmp_path / f"lost{whom}", shared, two / ".parts", whom)
        assert not (two / "samples.json").exists()
    together(tmp_path / "logs", shared)
    assert "are drawn in parts" in (tmp_path / "logs" / "process0.log").read_text()
    assert contents(two) == contents(tmp_path / "one")
    # It is finished for every number of processes.
    together(tmp_path / "again", shared, expected=2)
    log = (tmp_path / "again" / "process1.log").read_text()
    assert "process 0" in log
    assert "holds samples already" in log


@pytest.mark.slow
def test_figures_are_those_of_one_process_after_the_loss_of_all(bundles, tmp_path):
    features = f"--features=clip:{bundles['clip']}"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big r circle\na small g circle\n")
    command = ["evaluate", f"--base={bundles['base']}", f"--prompt_file={prompts}"]
    command += [features, "--num_images=12", "--batch_size=2", "--respacing=3"]
    command += ["--guidance_scale=2", "--save_images=12"]
    reference = ["evaluate", "reference", "--source=shapes:quickstart", "--px=8"]
    reference += [features, "--max_images=16", "--batch_size=4"]
    alone([*reference, f"--output={tmp_path / 'one.npz'}"])
    together(tmp_path / "real", [*reference, f"--output={tmp_path / 'two.npz'}"])
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert one.files == two.files
        np.testing.assert_allclose(two["pool"], one["pool"], rtol=0, atol=1e-6)
    command.append(f"--reference={tmp_path / 'one.npz'}")
    alone([*command, f"--output={tmp_path / 'one'}"])
    shared = [*command, f"--output={tmp_path / 'two'}"]
    cut_off(tmp_path / "lost", shared, tmp_path / "two" / "parts", None)
    assert not (tmp_path / "two" / "result.json").exists()
    together(tmp_path / "logs", shared)
    results = [
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("one", "two")
    ]
    figures = [result["metrics"] for result in results]
    assert {"noised_clip_fid", "noised_clip_score"} <= figures[0].keys()
    for name, value in figures[0].items():
        # The same pictures and features, in the same order.
        np.testing.assert_allclose(figures[1][name], value, rtol=1e-6, err_msg=name)
    assert results[0]["settings"] == results[1]["settings"]
    pictures = [
        (tmp_path / name / "samples.npz").read_bytes() for name in ("one", "two")
    ]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_a_run_of_a_sweep_takes_all_processes(bundles, tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (8, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "pictures.npz", arr_0=pictures)
    (tmp_path / "captions.txt").write_text("a big r circle\n" * 8)
    (tmp_path / "judge.py").write_text(
        'COMMAND = "evaluate --metrics=clip_score --batch_size=2"\n\n\n'
        'def sweep():\n    return [{"save_images": 8}]\n'
    )
    root = tmp_path / "root"
    shared = [f"--images={tmp_path / 'pictures.npz'}", f"--judge={bundles['clip']}"]
    shared += [f"--prompt_file={tmp_path / 'captions.txt'}"]
    whole = ["sweep", str(tmp_path / "judge.py"), f"--root={root}", "--", *shared]
    together(tmp_path / "refused", whole, expected=2)
    said = (tmp_path / "refused" / "process1.log").read_text()
    assert "start each run on all of them by --only=ID" in said
    command = subprocess.run(
        [*GLIDE, *whole[:3], "--runner=print", *whole[3:]],
        env=local_processes.environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    together(tmp_path / "logs", shlex.split(command)[1:])
    (result,) = root.glob("runs/*/result.json")
    assert json.loads(result.read_text())["machine"]["devices"] == 2 * DEVICES
    assert len(list((result.parent / "parts").glob("[0-9]*.npz"))) == 4
    (log,) = root.glob("logs/*.1.log")
    assert "exit code 0" in log.read_text()


def test_processes_with_other_flags_end_before_any_work(bundles, tmp_path):
    flags = f"--base={bundles['base']} --prompt=x --output={tmp_path / 'out'}"
    script = f"exec {' '.join(GLIDE)} sample {flags} --seed=$GLIDE_JAX_PROCESS_ID"
    logs = tmp_path / "logs"
    command = ["bash", "-c", script]
    local_processes.run(logs, command, devices=DEVICES, expected=2)
    said = (logs / "process1.log").read_text()
    assert "has other flags than process 0" in said
    assert "--seed: 0 -> 1; start every process with the same flags" in said
    assert not (tmp_path / "out").exists()

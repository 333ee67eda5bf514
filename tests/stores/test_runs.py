"""Runs, bundles and pictures in object stores, by the commands that users give."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from PIL import Image

from glide_jax.checkpoint import manifest
from glide_jax.cli import main
from glide_jax.data import sources
from glide_jax.runtime import mirrors, object_store, store_lock
from tests import local_processes
from tests.stores import servers
from tests.train import small_runs

SCHEMES = ("gs", "s3")
LAST = 1000
GLIDE = [sys.executable, "-m", "glide_jax.cli.main"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> pathlib.Path:
    """A run that is longer than the first uploads take."""
    folder = tmp_path_factory.mktemp("experiment")
    tokenizer = small_runs.write_tokenizer(folder)
    changes = {
        "train.num_steps": LAST,
        "checkpoint.every_steps": 100,
        "checkpoint.keep": 2,
        "log.every_steps": 100,
    }
    config = small_runs.make_config(tokenizer, changes=changes)
    return small_runs.write_experiment(folder / "small.py", config)


def glide(cache: pathlib.Path, *command: str, expected: int = 0) -> str:
    """Runs a command on a machine of its own; returns its messages."""
    done = subprocess.run(
        [*GLIDE, *command],
        env=local_processes.environment(GLIDE_JAX_CACHE=str(cache)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    return done.stderr + done.stdout


def listed(store: object_store.ObjectStore) -> dict[int, str]:
    """The manifests of the checkpoints that are complete."""
    return {
        int(name.split("/")[1]): name
        for name in store.list("checkpoints")
        if name.endswith(f"/{manifest.NAME}")
    }


def digests_of(store: object_store.ObjectStore, step: int) -> dict[str, str]:
    """The digests of the arrays of a checkpoint."""
    leaves = json.loads(store.read(listed(store)[step]))["leaves"]
    return {path: leaf["digest"] for path, leaf in leaves.items()}


def kill_early(store: object_store.ObjectStore, command, cache) -> None:
    """Starts a command and kills it once the store has a checkpoint."""
    with subprocess.Popen(
        [*GLIDE, *command],
        env=local_processes.environment(GLIDE_JAX_CACHE=str(cache)),
        stderr=subprocess.DEVNULL,
    ) as process:
        while not listed(store):
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_run_goes_on_elsewhere_and_its_bundle_draws(stores, experiment, tmp_path):
    url, other = (f"{scheme}://{servers.BUCKET}/{tmp_path.name}" for scheme in SCHEMES)
    store = object_store.ObjectStore(f"{url}/run", "run")
    train = ["train", f"--config={experiment}", f"--workdir={url}/run"]
    alone = ["train", f"--config={experiment}", f"--workdir={tmp_path / 'alone'}"]
    glide(tmp_path / "a", *alone)
    kill_early(store, train, tmp_path / "a")
    assert LAST not in listed(store)
    # The holder is found dead on this machine; another one would wait two minutes.
    messages = glide(tmp_path / "b", *train)
    assert "taken over from process" in messages
    assert "resumed at step" in messages
    whole = manifest.read(tmp_path / f"alone/checkpoints/{LAST}")
    digests = {path: leaf["digest"] for path, leaf in whole.leaves.items()}
    assert digests_of(store, LAST) == digests
    assert len(listed(store)) == 2  # checkpoint.keep
    rows = [json.loads(line) for line in store.read("metrics.jsonl").splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    # Only the average of the parameters is fetched.
    messages = glide(tmp_path / "c", "export", f"{url}/run", f"--output={other}/bundle")
    cached = tmp_path / "c/stores" / f"{url}/run/checkpoints/{LAST}".replace("://", "/")
    assert {path.name for path in cached.iterdir() if path.is_dir()} == {"ema_params"}
    draw = [
        "sample",
        f"--base={other}/bundle",
        "--prompt=a red circle",
        "--respacing=2",
    ]
    glide(tmp_path / "d", *draw, f"--output={url}/pictures")
    glide(tmp_path / "d", *draw, f"--output={tmp_path / 'pictures'}")
    pictures = object_store.ObjectStore(f"{url}/pictures", "pictures")
    names = {name for name in pictures.list() if store_lock.FOLDER not in name}
    assert names == {path.name for path in (tmp_path / "pictures").iterdir()}
    for name in names:
        if name.endswith(".png"):
            local = (tmp_path / "pictures" / name).read_bytes()
            assert pictures.read(name) == local
    store.delete([f"checkpoints/{LAST}/_CHECKPOINT_METADATA"])
    messages = glide(tmp_path / "f", "verify", f"{url}/run", expected=3)
    assert "damaged ones: 1000" in messages


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["export", "gs://none/run"], "workdir=gs://none/run: its bucket does not"),
        (["sample", "--base=s3://none/b"], "--base=s3://none/b: its bucket does not"),
        (["train", "--workdir=s3://none/b"], "--workdir=s3://none/b: its bucket"),
        (
            ["sweep", "--root=gs://bucket/s", "--runner=print", "scales"],
            "gs/bucket/s mirrors an object store",
        ),
    ],
)
def test_bad_places_are_one_line_before_any_work(stores, command, line, tmp_path):
    messages = glide(tmp_path, *command, expected=2)
    assert line in messages
    assert sum("glide " in one for one in messages.splitlines()) == 1, messages


def test_credentials_that_are_refused_or_missing_are_one_line(stores, tmp_path):
    stores.faults.add("deny", 50)
    messages = glide(tmp_path, "export", "s3://bucket/run", expected=2)
    assert "refuses access" in messages
    assert "AWS_PROFILE" in messages
    stores.faults.clear()
    stores.faults.add("deny", 50)
    messages = glide(tmp_path, "export", "gs://bucket/run", expected=2)
    assert "gcloud auth" in messages
    stores.faults.clear()


@pytest.mark.slow
def test_hosts_with_a_disk_each_write_one_checkpoint(stores, experiment, tmp_path):
    url = f"s3://{servers.BUCKET}/{tmp_path.name}"
    store = object_store.ObjectStore(f"{url}/run", "run")
    train = ["train", f"--config={experiment}", "--config.mesh.fsdp=4"]

    def on_two_hosts(last: int, disks: str) -> list[str]:
        """Runs both processes to the step; returns their messages."""
        steps_flag = f"--config.train.num_steps={last}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        hosts = [
            subprocess.Popen(
                [*GLIDE, *train, f"--workdir={url}/run", steps_flag],
                env=local_processes.environment(
                    GLIDE_JAX_CACHE=str(tmp_path / f"{disks}{index}"),
                    GLIDE_JAX_COORDINATOR=f"127.0.0.1:{port}",
                    GLIDE_JAX_NUM_PROCESSES="2",
                    GLIDE_JAX_PROCESS_ID=str(index),
                    JAX_NUM_CPU_DEVICES="2",
                ),
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        messages = [host.communicate()[1] for host in hosts]
        assert [host.returncode for host in hosts] == [0, 0], messages
        return messages

    first = on_two_hosts(100, "a")
    assert "this host uploads its parts" in first[0]
    parts = {name.split("/")[3] for name in store.list("checkpoints/100/params")}
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= parts
    assert "manifest.ocdbt" not in parts  # merged where it is read
    # Both disks are lost.
    second = on_two_hosts(150, "b")
    assert "resumed at step 100" in second[0]
    # One process reads what two wrote, and finds the bits of two on one disk.
    glide(tmp_path / "c", "verify", f"{url}/run")
    shared = [*train, f"--workdir={tmp_path / 'shared'}"]
    shared += ["--config.train.num_steps=150"]
    local_processes.run(tmp_path / "logs", [*GLIDE, *shared], devices=2)
    whole = manifest.read(tmp_path / "shared/checkpoints/150")
    assert digests_of(store, 150) == {
        path: leaf["digest"] for path, leaf in whole.leaves.items()
    }


def test_array_records_are_built_in_a_store_and_read_from_it(
    stores, tmp_path, monkeypatch
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(photos / f"{name}.png")
        (photos / f"{name}.txt").write_text(f"a {name} square")
    url = f"s3://{servers.BUCKET}/{tmp_path.name}"
    monkeypatch.setenv("GLIDE_JAX_CACHE", str(tmp_path / "a"))
    build = ["data", "build", f"--source=folder:{photos}", "--name=photos"]
    assert main.run([*build, f"--output={url}"]) == 0
    monkeypatch.setenv("GLIDE_JAX_CACHE", str(tmp_path / "b"))
    with mirrors.session(lambda: True):
        source = sources.open_source(f"tfds:{url}/photos/1.0.0")
        captions = {source[index].caption for index in range(len(source))}
    assert captions == {"a red square", "a blue square"}

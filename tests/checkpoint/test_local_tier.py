"""Local steps come back with equal bits, or an older one does, with the reason."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import jax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from glide_jax.checkpoint import (
    lineage,
    local_files,
    local_tier,
    manifest,
    peer_copies,
)
from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.parallel import device_mesh
from tests import fake_devices
from tests.checkpoint import states, test_processes


def items(step: int) -> dict:
    """The items of a step, on the mesh of this process's device."""
    place = NamedSharding(device_mesh.make_mesh(defaults.MeshConfig()), P())
    return jax.device_put(states.make_items(step), place)


WANTED = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items(1)
)


class Start:
    """One start of a run: its tier, and what it restored."""

    def __init__(
        self, folder: pathlib.Path, stored: int = 0, refuse=lambda step, meta: ""
    ) -> None:
        self.tier = local_tier.LocalTier(folder / "disk", folder, every_steps=1)
        self.restored = self.tier.restore(WANTED, stored, refuse)
        self.own = folder / "disk" / "process_0"

    def save(self, *steps: int) -> Start:
        for step in steps:
            assert self.tier.save(step, items(step), {"step": step})
            self.tier.wait()
        return self

    def steps(self) -> list[int]:
        return sorted(int(path.name.partition(".")[0]) for path in self.parts())

    def parts(self) -> list[pathlib.Path]:
        return list(self.own.glob("*.part"))


def check(restored, step: int) -> None:
    assert (restored.step, restored.meta) == (step, {"step": step})
    assert states.is_equal(restored.items, items(step))


def flip_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def spoil_header(path: pathlib.Path) -> None:
    path.write_bytes(b"\xff" * 40 + path.read_bytes()[40:])


@pytest.mark.parametrize(
    "damage", [flip_bit, cut_short, spoil_header, pathlib.Path.unlink]
)
def test_a_damaged_step_gives_way_to_the_older_one(tmp_path, caplog, damage):
    first = Start(tmp_path).save(1, 2, 3)
    assert first.restored is None
    assert first.steps() == [2, 3]
    check(Start(tmp_path).restored, 3)
    damage(first.own / "3.0of1.part")
    check(Start(tmp_path).restored, 2)
    lines = [line for line in caplog.messages if "3" in line and "is skipped" in line]
    assert len(lines) == (damage in (flip_bit, cut_short))
    damage(first.own / "2.0of1.part")
    last = Start(tmp_path)
    assert last.restored is None
    assert last.steps() == []


def test_the_newer_of_the_store_and_the_local_tier_wins(tmp_path):
    Start(tmp_path).save(3, 5)
    start = Start(tmp_path, stored=4)
    check(start.restored, 5)
    start = Start(tmp_path, stored=5)
    assert start.restored is None
    # From here on the run has a history of its own; step 5 of before is part of it.
    start.save(6)
    check(Start(tmp_path, stored=5).restored, 6)


def test_steps_after_a_rollback_are_not_of_the_run(tmp_path):
    start = Start(tmp_path).save(3, 5)
    kept = (start.own / "5.0of1.part").read_bytes()
    start.tier.discard_after(3)
    assert start.steps() == [3]
    # As on a host that was away meanwhile.
    (start.own / "5.0of1.part").write_bytes(kept)
    start = Start(tmp_path)
    check(start.restored, 3)
    assert start.steps() == [3]
    # Another run in the same folder does not begin with the steps of this one.
    (tmp_path / lineage.NAME).unlink()
    assert Start(tmp_path).restored is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"meta": {"x": 1}}, "has other settings (x)"),
        ({"mesh": {"data": 2}}, "was written on mesh {'data': 2}, and this run has"),
        ({"shards": ()}, "has other shards than the devices of this run need"),
        (
            {"part": local_files.Part(1, 0, 2, "")},
            "was written by 2 processes, and this run has 1",
        ),
    ],
    ids=["settings", "mesh", "shards", "processes"],
)
def test_a_step_of_another_run_or_layout_is_ignored(tmp_path, caplog, changes, reason):
    (path,) = Start(tmp_path).save(1).parts()
    header, payload = local_files.read(path)
    path.unlink()
    if "part" in changes:
        changes = {"part": changes["part"]._replace(token=header.part.token)}
    other = dataclasses.replace(header, **changes)
    local_files.write(
        path.with_name(other.part.name), other.line(), payload, lambda: None
    )

    def refuse(step, meta):
        return "has other settings (x)" if "x" in meta else ""

    assert Start(tmp_path, refuse=refuse).restored is None
    told = [line for line in caplog.messages if "ignored" in line]
    assert len(told) == 1
    assert told[0].startswith(f"the local tier is ignored: its step 1 {reason}")


def test_a_slow_disk_costs_steps_and_no_time(tmp_path, caplog):
    start, is_slow = Start(tmp_path), threading.Event()
    assert start.tier.save(1, items(1), {"step": 1}, is_slow.wait)
    assert not start.tier.save(2, items(2), {"step": 2})
    assert not start.tier.save(3, items(3), {"step": 3})
    is_slow.set()
    start.tier.wait()
    start.save(4)
    check(Start(tmp_path).restored, 4)
    told = [line for line in caplog.messages if "left out" in line]
    assert len(told) == 2
    assert "step 2 is left out: an earlier one is still being written" in told[0]
    assert "no longer so, after 2 in a row" in told[1]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "disk").write_text("")
    with pytest.raises(
        UserError, match=r"local_dir.*\(Not a directory\); name a folder"
    ):
        Start(tmp_path)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "peer" / "process_1"
    folder.mkdir(parents=True)
    made = peer_copies.Server(folder, "127.0.0.1", "secret")
    yield made, folder
    made.close()


def test_a_peer_keeps_a_copy_and_gives_it_back(tmp_path, server, caplog):
    made, folder = server
    start = Start(tmp_path).save(1, 2, 3)
    for step in (2, 3):
        path = start.own / f"{step}.0of1.part"
        part = local_files.find(start.own.parent)[path]
        content = [memoryview(path.read_bytes())]
        peer_copies.put(made.address, "secret", part, content, keep=[])
        assert [one.name for one in folder.iterdir()] == [path.name]
    back = tmp_path / "back"
    peer_copies.get(made.address, "secret", part, back)
    assert back.read_bytes() == path.read_bytes()
    with pytest.raises(manifest.DamagedError, match="is not there"):
        peer_copies.get(made.address, "secret", part._replace(step=2), back)

    # A copy that is damaged on its way, or of a stranger, is not kept.
    wrong = bytearray(path.read_bytes())
    wrong[200] ^= 1
    newer = part._replace(step=4)
    with pytest.raises(manifest.DamagedError, match="another SHA-256 on arrival"):
        peer_copies.put(made.address, "secret", newer, [memoryview(wrong)], keep=[])
    with pytest.raises((manifest.DamagedError, ConnectionError)):
        peer_copies.put(made.address, "guess", newer, content, keep=[])
    with socket.create_connection(made.address) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n")
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(100) == b""
    assert [one.name for one in folder.iterdir()] == [path.name]
    assert caplog.messages.count("a stranger's request for local steps is refused") == 2


@pytest.mark.parametrize(
    ("hosts", "keepers"),
    [
        (["a"], [None]),
        (["a", "a", "a"], [1, 2, 0]),
        (["a", "b", "c"], [1, 2, 0]),
        (["a", "a", "b", "b"], [2, 3, 0, 1]),
        (["a", "a", "b"], [2, 2, 0]),
    ],
)
def test_copies_are_kept_on_the_next_host(hosts, keepers):
    found = [peer_copies.keeper_of(process, hosts) for process in range(len(hosts))]
    assert found == keepers


def test_a_lineage_keeps_the_steps_of_the_past_only():
    run = lineage.Lineage().begin()
    first = run.token
    run = lineage.parse(run.cut(7).begin().to_text())
    assert run.has(first, 7)
    assert not run.has(first, 8)
    assert run.has(run.token, 10**9)
    assert not run.has("", 0)
    assert not run.cut(5).has(first, 6)
    assert lineage.parse(json.dumps({"starts": 3})) == lineage.Lineage()


TWO = """
import logging, shutil, sys, threading, pathlib
import jax
index, port, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from glide_jax.checkpoint import kv_exchange, local_tier
from glide_jax.config import defaults
from glide_jax.parallel import device_mesh

logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout, force=True)
logging.getLogger("jax").setLevel("ERROR")
made = device_mesh.make_mesh(defaults.MeshConfig(data=2, fsdp=2))
cut, whole = (NamedSharding(made, spec) for spec in (P("fsdp"), P()))
disk = folder / f"host{index}"
barrier = kv_exchange.KvExchange("test")

def values(step):
    return np.random.default_rng(step).normal(size=(8, 6)).astype("float32")

def items(step):
    place = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i])
    return {"params": {"w": place(values(step), cut), "b": place(values(step), whole)}}

wanted = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items(1))

def start(step):
    tier = local_tier.LocalTier(disk, folder, 1)
    restored = tier.restore(wanted, 0, lambda step, meta: "")
    assert (restored.step if restored else 0) == step, restored
    if restored:
        for name, leaf in restored.items["params"].items():
            for shard in leaf.addressable_shards:
                want = values(step)[shard.index]
                np.testing.assert_array_equal(np.asarray(shard.data), want)
    barrier.exchange("")
    return tier

def names():
    return sorted(path.name for path in disk.rglob("*.part"))

tier, slow = start(0), threading.Event()
assert tier.save(1, items(1), {})
tier.wait()
barrier.exchange("")
# One process is slow: both leave a step out.
assert tier.save(2, items(2), {}, slow.wait if index else lambda: None)
assert not tier.save(3, items(3), {})
slow.set()
tier.wait()
barrier.exchange("")
assert names() == [f"{n}.{k}of2.part" for n in (1, 2) for k in (0, 1)], names()

# A disk is lost; its part is at the peer.
if index:
    shutil.rmtree(disk)
tier = start(2)
assert tier.save(4, items(4), {})
tier.wait()
barrier.exchange("")

# Of step 4 the copy is lost and the original is damaged: both go back to step 2.
if index:
    path = disk / "process_1" / "4.1of2.part"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
else:
    (disk / "process_0" / "4.1of2.part").unlink()
tier = start(2)
tier.delete()
assert names() == []
print("done", index, flush=True)
"""


def run_two(script: str, folder: pathlib.Path, *prefix: str) -> list[str]:
    """The output of a script in two processes; the second's command has a prefix."""
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "2",
        "NPROC": "16",
        "PYTHONPATH": str(fake_devices.ROOT),
    }
    command = [sys.executable, "-c", script]
    port = str(test_processes.free_port())
    processes = [
        subprocess.Popen(
            [*(prefix if index else ()), *command, str(index), port, str(folder)],
            env=environment,
            cwd=fake_devices.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        told = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for index, (out, err) in enumerate(told):
        assert f"done {index}" in out, f"{out}\n{err[-4000:]}"
    return [out for out, _ in told]


def test_two_processes_agree_on_a_step_whatever_one_of_them_lost(tmp_path):
    first, second = run_two(TWO, tmp_path)
    # Process 0 may not be told yet that its copy is kept.
    slow = "an earlier one is still being written or sent by process (0, )?1"
    assert re.search(f"local checkpoint step 3 is left out: {slow}", first), first
    assert "local checkpoint step 2 is from process 0" in second
    assert "local checkpoint step 4 is skipped: the part of process 1: " in first


SHARED = """
import sys, pathlib
import jax
index, port, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
from glide_jax.checkpoint import local_tier
from glide_jax.errors import UserError

try:
    local_tier.LocalTier(folder / "disk", folder, 1)
except UserError as error:
    print(error)
    print("done", index, flush=True)
"""


def test_a_disk_that_hosts_share_is_refused(tmp_path):
    # In a namespace with a name of its own, the second process is on another host. The
    # name is one that can be resolved, as gloo needs.
    prefix = ["unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("naming a host takes rights that this process lacks")
    for out in run_two(SHARED, tmp_path, *prefix):
        assert f"{tmp_path}/disk is one folder for " in out
        assert "localhost" in out

"""Measured time of each kind of instruction."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import pytest

from glide_jax.bench import instructions
from glide_jax.plan import hlo, machines, roofline, work

SIDE, TURNS = 64, 5


def test_every_instruction_of_a_program_is_measured():
    def walk(x, w):
        return jax.lax.fori_loop(0, TURNS, lambda _, y: jnp.tanh(y @ w), jnp.sin(x))

    x = jnp.ones((SIDE, SIDE))
    program = jax.jit(walk).lower(x, x).compile()
    rows = instructions.measure(
        lambda: jax.block_until_ready(program(x, x)), program.as_text()
    )
    assert instructions.UNKNOWN not in {row["kind"] for row in rows}
    products = [row for row in rows if row["kind"] == "matrix product"]
    assert sum(row["runs"] for row in products) == TURNS
    assert sum(row["tflop"] for row in products) == pytest.approx(
        TURNS * 2 * SIDE**3 / 1e12, rel=1e-3
    )
    assert all(row["seconds"] > 0 for row in rows)
    assert all(row["bound_seconds"] is None for row in rows), "a CPU has no known peak"
    expected = work.measure(hlo.parse(program.as_text()))
    assert sum(row["runs"] for row in rows) == sum(one.runs for one in expected)


def make_work(name: str, kind: str, source: str = "here.py:1") -> work.Work:
    return work.Work(name, kind, source, runs=2, flops=4e12, bytes_read=10**9)


def test_rows_are_kinds_and_lines_costliest_first():
    found = [
        make_work("dot.1", "matrix product"),
        make_work("dot.2", "matrix product"),
        make_work("dot.3", "matrix product", "there.py:1"),
        make_work("copy.1", "copy"),
        make_work("copy.2", "copy"),
    ]
    seconds = {"dot.1": 0.5, "dot.2": 0.25, "dot.3": 1.0, "copy.1": 0.125, "new": 0.5}
    peaks = roofline.Peaks({"bf16": 16e12}, bandwidth=2e9)
    rows = instructions.summarize(found, seconds, peaks)
    assert [(row["kind"], row["source"], row["seconds"]) for row in rows] == [
        ("matrix product", "there.py:1", 1.0),
        ("matrix product", "here.py:1", 0.75),
        ("copy", "here.py:1", 0.125),
        (instructions.UNKNOWN, "", 0.5),
    ]
    # An instruction takes 0.25 s of work and 0.5 s of memory traffic, at least 0.5 s.
    assert [row["bound_seconds"] for row in rows] == [0.5, 1.0, 0.5, None]
    assert [row["runs"] for row in rows] == [2, 4, 2, 1]
    assert [row["gigabytes"] for row in rows] == [1.0, 2.0, 1.0, 0.0]


def test_a_collective_has_no_bound_and_a_shared_computation_counts_once():
    peaks = roofline.Peaks({"bf16": 16e12}, bandwidth=2e9)
    sent = work.Work("gather.1", "all-gather", "", runs=1, network_bytes=1e9)
    shared = [make_work("dot.1", "dot"), make_work("dot.1", "dot")]
    dot, gather = instructions.summarize(
        [sent, *shared], {"gather.1": 0.5, "dot.1": 0.75}, peaks
    )
    assert (dot["seconds"], dot["runs"]) == (0.75, 4)
    assert (gather["seconds"], gather["bound_seconds"]) == (0.5, None)


PROGRAM = """HloModule step

body (p: f32[8]) -> f32[8] {
  %p = f32[8] parameter(0)
  ROOT %add.1 = f32[8] add(%p, %p)
}

ENTRY main (a: f32[8]) -> f32[8] {
  %a = f32[8] parameter(0)
  %all-gather-start.1 = (f32[8], f32[16]) all-gather-start(%a)
  %all-gather-done.1 = f32[16] all-gather-done(%all-gather-start.1)
  ROOT %call.1 = f32[8] call(%a), to_apply=%body
}
"""


def test_a_wait_belongs_to_its_start_and_a_call_to_what_it_calls():
    seconds = {"all-gather-start.1": 1.0, "all-gather-done.1": 2.0, "call.1": 4.0}
    found = instructions.resolve(hlo.parse(PROGRAM), seconds | {"add.1": 3.5, "x": 1.0})
    assert found == {"all-gather-start.1": 3.0, "add.1": 3.5, "x": 1.0}


def make_plane(name, line, *events):
    """A plane of a profile: `events` are (name, nanoseconds, stats)."""
    made = [
        types.SimpleNamespace(name=text, duration_ns=ns, stats=stats.items())
        for text, ns, stats in events
    ]
    lines = [types.SimpleNamespace(name=line, events=made)]
    return types.SimpleNamespace(name=name, lines=lines)


def test_gpus_and_tpus_name_their_instructions():
    host = make_plane("/host:CPU", "python", ("launch", 9e9, {"hlo_op": "dot.1"}))
    gpu = make_plane(
        "/device:GPU:0",
        "Stream #1",
        ("gemm_kernel", 1e9, {"hlo_op": "dot.1", "hlo_module": "jit_step"}),
        ("gemm_kernel", 2e9, {"hlo_op": "dot.1", "hlo_module": "jit_step"}),
        ("MemcpyD2H", 3e9, {}),
    )
    tpu = make_plane(
        "/device:TPU:0", "XLA Ops", ("%fusion.2 = bf16[8]{0} fusion(...)", 1e9, {})
    )
    steps = make_plane("/device:TPU:0", "Steps", ("7", 5e9, {}))
    assert instructions.device_planes([host, gpu]) == [gpu]
    assert instructions.device_planes([host]) == [host]
    assert instructions.seconds_by_name(gpu) == {"dot.1": 3.0}
    assert instructions.seconds_by_name(tpu) == {"fusion.2": 1.0}
    assert instructions.seconds_by_name(steps) == {}


def test_the_peaks_of_a_card_are_found_by_its_name(monkeypatch):
    card = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(jax, "devices", lambda: [card])
    found = instructions._find_peaks()
    assert found is not None
    assert (found.flops["bf16"], found.bandwidth) == (989e12, 3.35e12)


def test_kinds_beyond_those_shown_share_a_row(monkeypatch):
    monkeypatch.setattr(instructions, "SHOWN", 2)
    found = [make_work(f"kind{n}.1", f"kind{n}") for n in range(5)]
    seconds = {f"kind{n}.1": 2.0**-n for n in range(5)}
    rows = instructions.summarize(found, seconds, None)
    assert [row["kind"] for row in rows] == ["kind0", "kind1", "others"]
    assert sum(row["seconds"] for row in rows) == sum(seconds.values())
    assert instructions.summarize(found, {}, None) == []


def test_the_table_says_which_share_of_a_run_it_covers():
    peaks = roofline.Peaks.of(machines.MACHINES["h100"])
    rows = instructions.summarize([make_work("dot.1", "dot")], {"dot.1": 0.03}, peaks)
    heading, row, total = instructions.to_text(rows, 0.04).splitlines()
    assert heading.split() == ["runs", "s", "bound", "TFLOP", "GB"]
    assert row.split() == [
        "dot",
        "2",
        "0.03000",
        "0.00404",
        "4.000",
        "1.00",
        "here.py:1",
    ]
    assert "75% of a run of 0.04000 s" in total

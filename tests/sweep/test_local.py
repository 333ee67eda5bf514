"""The local runner keeps a number of runs going, and returns their exit code."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from glide_jax.runtime import lifecycle
from glide_jax.sweep import local, run_list

# Of `glide sweep --only=ID ... --root=ROOT`: ID.
ID = 'id="${2#--only=}"'


@pytest.fixture
def run_all(make_plan, root):
    """run_all("seeds(3)", parallel=2) -> the exit code."""

    def run(runs: str, parallel: int) -> int:
        plan = make_plan(runs)
        run_list.keep(plan, root)
        words = ["sweep", "small.py", f"--root={root}"]
        with lifecycle.StopRequest() as stop:
            return local.run(plan.runs, root, words, stop, parallel=parallel)

    return run


def test_parallel_limits_the_runs_at_a_time_and_each_runs_once(
    glide, run_all, root, make_plan
):
    glide(
        f'{ID}; cd "$folder"; echo "$id" >>started; touch "going.$id"\n'
        'ls going.* | wc -l >>together; sleep 0.4; rm "going.$id"'
    )
    assert run_all("seeds(5)", parallel=2) == 0
    started = (root / "started").read_text().split()
    assert sorted(started) == sorted(run.id for run in make_plan("seeds(5)").runs)
    assert max(map(int, (root / "together").read_text().split())) == 2


@pytest.mark.parametrize(
    ("ends", "code"), [((0, 137, 2), 2), ((0, 42, 0), 42), ((0, 0, 0), 0)]
)
def test_a_mistake_outranks_what_is_worth_another_start(glide, run_all, ends, code):
    cases = " ".join(f"{i + 1}) exit {end} ;;" for i, end in enumerate(ends))
    glide(f"case $n in {cases} esac")
    assert run_all("seeds(3)", parallel=1) == code


def test_a_signal_ends_what_goes_and_starts_no_more(glide, run_all, root):
    glide(
        f"{ID}; trap 'touch \"$folder/stopped.$id\"; exit 42' TERM\n"
        'touch "$folder/ready.$id"; while true; do sleep 0.05; done'
    )

    def send():
        while len(list(root.glob("ready.*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    assert run_all("seeds(4)", parallel=2) == lifecycle.ExitCode.PREEMPTED
    assert len(list(root.glob("stopped.*"))) == len(list(root.glob("ready.*"))) == 2


def test_gpus_are_shared_out_where_they_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,5")
    shares = [local.environment(slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)]
    assert shares == ["0,2", "1,5"]
    assert local.environment(0, 1)["CUDA_VISIBLE_DEVICES"] == "0,1,2,5"
    assert local.environment(0, 8)["CUDA_VISIBLE_DEVICES"] == "0,1,2,5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES" not in local.environment(0, 2)

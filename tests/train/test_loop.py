"""What the loop does when, and that a mistake costs nothing."""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from glide_jax.checkpoint import store
from glide_jax.cli import main
from glide_jax.data import pipeline, sources
from glide_jax.errors import DeviceFailedError, DivergedError, UserError
from glide_jax.runtime import lifecycle, metric_writers
from glide_jax.train import loop, periodic_eval, recovery, run_log, setup, train_state
from tests import fake_devices, local_processes
from tests.train.small_runs import CLIP


@pytest.mark.parametrize(
    ("every", "due"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4]), (5, [])]
)
def test_things_are_due_at_multiples_of_their_interval(every, due):
    assert [step for step in range(1, 5) if periodic_eval.is_due(step, every)] == due


def test_captions_longer_than_the_context_are_logged(make_config, tmp_path, caplog):
    short, long = (
        make_config(changes={"model.text_context": context}) for context in (6, 60)
    )
    setup.prepare(long, tmp_path / "long")
    assert "are truncated" not in caplog.text
    setup.prepare(short, tmp_path / "short")
    assert "100% of captions have more than model.text_context=6 tokens" in caplog.text


def test_a_run_logs_validates_draws_and_saves_when_asked_to_and_at_its_end(
    make_config, tmp_path
):
    changes = {
        "train.num_steps": 5,
        "data.validation_sources": ("shapes:quickstart",),
        "log.every_steps": 2,
        "log.validate_every_steps": 3,
        "log.validation_examples": 4,
        "log.grid_every_steps": 4,
        "checkpoint.every_steps": 2,
        "checkpoint.keep": 2,
    }
    drawn = []

    def make_hook(run):
        def draw(params):
            drawn.append(params)
            return np.full((4, 4, 3), 100, np.uint8)

        return draw

    loop.train(make_config(CLIP, changes), tmp_path, make_grid_hook=make_hook)
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 4, 5]
    validated = [row for row in rows if "validation/loss" in row]
    assert [row["step"] for row in validated] == [0, 3, 5]
    assert all(math.isfinite(v) for row in rows for v in row.values())
    assert len(drawn) == 2
    names = sorted(path.name for path in (tmp_path / "grids").iterdir())
    assert names == ["00000004.png", "00000005.png"]
    assert Image.open(tmp_path / "grids" / names[0]).size == (4, 4)
    with store.CheckpointStore(tmp_path / "checkpoints") as stored:
        assert stored.steps() == [4, 5]
        known = {"config", "tokenizer_digest", "records"}
        known |= {"window", "bad_records", "passed_over", "data_order"}
        assert stored.newest()[1].keys() == known


def test_the_checkpoint_with_the_best_metric_is_kept_beside_the_newest(
    make_config, tmp_path
):
    changes = {
        "train.num_steps": 4,
        "checkpoint.every_steps": 1,
        "checkpoint.keep": 1,
        "checkpoint.keep_best": 1,
        "checkpoint.best_metric": "loss",
    }
    loop.train(make_config(CLIP, changes), tmp_path)
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    best = min(rows, key=lambda row: row["loss"])["step"]
    with store.CheckpointStore(tmp_path / "checkpoints") as stored:
        assert stored.steps() == sorted({best, 4})


def test_a_step_validated_after_a_restart_can_be_the_best(
    make_config, tmp_path, monkeypatch
):
    """The first of two, cut off while it was validated, is the better one."""
    changes = {
        "train.num_steps": 2,
        "data.validation_sources": ("shapes:quickstart",),
        "log.validate_every_steps": 1,
        "log.validation_examples": 4,
        "checkpoint.every_steps": 1,
        "checkpoint.keep": 1,
        "checkpoint.keep_best": 1,
        "checkpoint.best_metric": "validation/loss",
        "optim.learning_rate": 10.0,  # learns nothing after it
    }
    config = make_config(CLIP, changes)

    def stop(step, batch):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    with monkeypatch.context() as patched:
        change_batches(patched, stop)
        assert loop.train(config, tmp_path) == lifecycle.ExitCode.PREEMPTED
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows if "validation/loss" in r] == [0]
    assert loop.train(config, tmp_path) == lifecycle.ExitCode.OK
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    losses = {r["step"]: r["validation/loss"] for r in rows if "validation/loss" in r}
    assert losses[1] <= losses[2]  # of equals the older is the better
    with store.CheckpointStore(tmp_path / "checkpoints") as stored:
        assert stored.steps() == [1, 2]
    assert main.run(["verify", str(tmp_path)]) == 0


def test_a_metric_that_no_row_has_is_logged_once(make_config, tmp_path, caplog):
    changes = {
        "train.num_steps": 2,
        "checkpoint.every_steps": 1,
        "checkpoint.keep_best": 1,
        "checkpoint.best_metric": "nonsense",
    }
    loop.train(make_config(CLIP, changes), tmp_path)
    assert sum("checkpoint.keep_best" in m for m in caplog.messages) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.num_steps": 0}, "num_steps"),
        ({"data.sources": ("webdataset:absent-*.tar",)}, "absent"),
        ({"data.sources": ("shapes:cubes",)}, "cubes"),
        ({"data.tokenizer": "sentencepiece:many"}, "sentencepiece:2048"),
        ({"data.tokenizer": "absent"}, "absent"),
        ({"model.vocab_size": 200}, "model.vocab_size=200"),
        ({"train.init_from": "absent"}, "does not exist"),
        ({"mesh.data": 3}, "devices"),
    ],
)
def test_a_mistake_is_a_one_line_error_and_nothing_is_written(
    make_config, tmp_path, changes, message
):
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=message) as error:
        setup.prepare(make_config(changes=changes), workdir)
    assert "\n" not in str(error.value)
    assert not workdir.exists() or list(workdir.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"model.compute_dtype": "bfloat16", "train.loss_type": "rescaled_kl"},
        {
            "model.compute_dtype": "float16",
            "train.timestep_sampling": "power",
            "train.timestep_power": 1.0,
        },
    ],
    ids=["bfloat16", "float16_and_power"],
)
def test_half_precision_trains_the_unet_without_a_skipped_update(
    make_config, tmp_path, changes
):
    # A scale of 2^20 overflows in the very first steps, as it is meant to.
    changes = {**changes, "train.init_log2_loss_scale": 8.0, "ema.warmup": False}
    loop.train(make_config(changes=changes), tmp_path)
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["skipped_updates"] for row in rows] == [0.0] * 4
    assert all(math.isfinite(v) for row in rows for v in row.values())
    scales = [row.get("log2_loss_scale", 0.0) for row in rows]
    is_float16 = changes["model.compute_dtype"] == "float16"
    expected = [8.001, 8.002, 8.003, 8.004] if is_float16 else [0.0] * 4
    np.testing.assert_allclose(scales, expected, rtol=1e-5)


def test_a_refused_start_leaves_the_folder_free_for_a_corrected_one(
    make_config, tmp_path
):
    bad = {"train.init_from": "absent", "model.text_layers": 2}
    for changes in (bad, {"data.validation_sources": ("folder:absent",)}):
        with pytest.raises(UserError):
            setup.prepare(make_config(changes=changes), tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_settings_are_free_until_there_is_a_checkpoint(make_config, tmp_path):
    setup.prepare(make_config(CLIP, {"seed": 1}), tmp_path)[0].checkpoints.close()
    run, state = setup.prepare(make_config(CLIP, {"seed": 2}), tmp_path)
    run.save(state, 1, {})
    run.checkpoints.close()
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="seed: 2 -> 3"):
        setup.prepare(make_config(CLIP, {"seed": 3}), tmp_path)
    assert (tmp_path / "config.json").read_text() == before
    assert '"seed": 2' in before


def test_a_tokenizer_that_the_checkpoint_was_not_made_with_is_refused(
    make_config, tmp_path
):
    run, state = setup.prepare(make_config(CLIP), tmp_path)
    run.checkpoints.save(
        1, train_state.to_items(state), {"tokenizer_digest": "another"}
    )
    run.checkpoints.close()
    with pytest.raises(UserError, match="not the tokenizer"):
        setup.prepare(make_config(CLIP), tmp_path)


def change_batches(monkeypatch, change):
    """Has change(step, batch) stand between the data and the run."""
    make_batches = pipeline.make_batches

    class Changed(pipeline.Batches):
        def __init__(self, batches, step):
            self.batches, self.faults, self.step = batches, batches.faults, step

        def is_ready(self, timeout_secs):
            return self.batches.is_ready(timeout_secs)

        def __next__(self):
            self.step += 1
            return change(self.step, next(self.batches))

        def close(self):
            self.batches.close()

    def make(*args, start_step=0, **settings):
        batches = make_batches(*args, start_step=start_step, **settings)
        return Changed(batches, start_step)

    monkeypatch.setattr(pipeline, "make_batches", make)


def test_steps_made_before_the_data_fail_are_saved(make_config, tmp_path, monkeypatch):
    def fail(step, batch):
        if step == 3:
            raise UserError("too many bad records")
        return batch

    change_batches(monkeypatch, fail)
    with pytest.raises(UserError, match="too many bad records"):
        loop.train(make_config(CLIP), tmp_path)
    with store.CheckpointStore(tmp_path / "checkpoints") as stored:
        assert stored.steps() == [2]


@pytest.mark.parametrize("failing_step", [1, 3])
def test_a_device_that_fails_between_steps_may_be_tried_again(
    failing_step, make_config, tmp_path, monkeypatch
):
    def callback():
        raise OSError("the device is off the bus")

    def fail(step, batch):
        if step == failing_step:
            # The runtime reports it as it does a device's failure: INTERNAL.
            jax.pure_callback(callback, jax.ShapeDtypeStruct((), "float32"))
        return batch

    change_batches(monkeypatch, fail)
    # Before the first row the failure may be one of every start.
    expected = DeviceFailedError if failing_step > 1 else jax.errors.JaxRuntimeError
    with pytest.raises(expected, match="INTERNAL: "):
        loop.train(make_config(CLIP), tmp_path)


def test_a_run_whose_metrics_cannot_be_written_is_saved_and_has_no_gap(
    make_config, tmp_path, monkeypatch
):
    config = make_config(CLIP)
    append = metric_writers._append

    def refuse(path, row):
        if row["step"] == 3:
            raise OSError(errno.EIO, "Input/output error")
        append(path, row)

    with monkeypatch.context() as patched:
        patched.setattr(metric_writers, "_append", refuse)
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written \(In"):
            loop.train(config, tmp_path)
    with store.CheckpointStore(tmp_path / "checkpoints") as stored:
        assert stored.steps() == [3]
    assert loop.train(config, tmp_path) == lifecycle.ExitCode.OK
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all("loss" in row for row in rows)


def test_metrics_of_a_step_are_synced_before_its_checkpoint(
    make_config, tmp_path, monkeypatch
):
    synced = []
    fsync = os.fsync

    def note(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    loop.train(make_config(CLIP), tmp_path)
    manifests = [i for i, path in enumerate(synced) if "4.unfinished/.manifest" in path]
    assert str(tmp_path / "metrics.jsonl") in synced[: manifests[0]]


@pytest.mark.parametrize("made", [0, 2])
def test_a_signal_while_data_do_not_come_saves_what_is_done(
    make_config, tmp_path, monkeypatch, caplog, made
):
    come = threading.Event()
    make_batch, is_ready = pipeline._BatchMaker.step_batch, pipeline.Batches.is_ready

    def held(maker, size, rows, step):
        if step == made:
            come.wait(60)
        return make_batch(maker, size, rows, step)

    def told(batches, timeout_secs):
        found = is_ready(batches, timeout_secs)
        path = tmp_path / "metrics.jsonl"
        rows = metric_writers.read_metrics(path) if path.exists() else []
        if len(rows) == made and not found:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(pipeline._BatchMaker, "step_batch", held)
        patched.setattr(pipeline.Batches, "is_ready", told)
        ended = loop.train(make_config(CLIP), tmp_path)
    assert not come.is_set()
    come.set()
    assert ended == lifecycle.ExitCode.PREEMPTED
    with store.CheckpointStore(tmp_path / "checkpoints") as stored:
        assert stored.steps() == [made][:made]
        # The batch that came too late is not counted.
        if made:
            assert stored.newest()[1]["bad_records"] == {
                "seen": 4 * made,
                "records": {},
            }
    told = "step 2 is saved" if made else "before the first step"
    assert f"stopped by a signal; {told}" in caplog.messages
    assert loop.train(make_config(CLIP), tmp_path) == lifecycle.ExitCode.OK
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


HUNG = """
import os, pathlib, signal, sys, time
from glide_jax.data import pipeline
from glide_jax.train import loop, recovery
from tests.train import small_runs

def hang(maker, size, rows, step):
    while step == 1:
        time.sleep(1)
    return make_batch(maker, size, rows, step)

def stop(batches, timeout_secs):
    rows = workdir / "metrics.jsonl"
    if rows.exists() and rows.read_text():
        os.kill(os.getpid(), signal.SIGTERM)
    return is_ready(batches, timeout_secs)

tokenizer, workdir = map(pathlib.Path, sys.argv[1:])
make_batch, pipeline._BatchMaker.step_batch = pipeline._BatchMaker.step_batch, hang
is_ready, pipeline.Batches.is_ready = pipeline.Batches.is_ready, stop
recovery.LEAVE_SECS = 1.0
sys.exit(loop.train(small_runs.make_config(tokenizer, small_runs.CLIP), workdir))
"""


def test_a_read_that_never_returns_does_not_delay_a_stop(tokenizer_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HUNG, str(tokenizer_folder), str(tmp_path)],
        env=local_processes.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == lifecycle.ExitCode.PREEMPTED, done.stderr
    assert "read of the training data is blocked" in done.stderr
    with store.CheckpointStore(tmp_path / "checkpoints") as stored:
        assert stored.steps() == [1]


def test_data_of_another_size_or_order_are_refused_unless_allowed(
    make_config, tmp_path, monkeypatch
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text("a square")
    changes = {"data.sources": (f"folder:{pictures}",), "train.num_steps": 1}
    workdir = tmp_path / "run"
    assert loop.train(make_config(CLIP, changes), workdir) == lifecycle.ExitCode.OK
    (pictures / "5.png").unlink()
    longer = make_config(CLIP, changes | {"train.num_steps": 2})
    with pytest.raises(UserError, match="has 5 records, and had 6"):
        loop.train(longer, workdir)
    allowed = ["data.sources"]
    assert loop.train(longer, workdir, allow_change=allowed) == lifecycle.ExitCode.OK
    # A version that reads the files in another order would draw other batches.
    monkeypatch.setattr(sources, "ORDER_VERSION", sources.ORDER_VERSION + 1)
    with pytest.raises(UserError, match=r"another order.*--allow_change=data\.sources"):
        loop.train(longer, workdir)


def test_an_evaluation_cut_off_by_a_signal_is_repeated(
    make_config, tmp_path, monkeypatch
):
    changes = {
        "data.validation_sources": ("shapes:quickstart",),
        "log.validate_every_steps": 2,
        "log.validation_examples": 4,
        "log.grid_every_steps": 2,
    }
    config = make_config(CLIP, changes)

    def make_hook(run):
        return lambda params: np.full((4, 4, 3), 100, np.uint8)

    def train(name):
        return loop.train(config, tmp_path / name, make_grid_hook=make_hook)

    def looks(name):
        rows = metric_writers.read_metrics(tmp_path / name / "metrics.jsonl")
        validated = [(r["step"], r.get("validation/loss"), r.get("loss")) for r in rows]
        return validated, sorted(p.name for p in (tmp_path / name / "grids").iterdir())

    def stop(step, batch):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    assert train("straight") == lifecycle.ExitCode.OK
    with monkeypatch.context() as patched:
        change_batches(patched, stop)
        assert train("cut") == lifecycle.ExitCode.PREEMPTED
    rows = metric_writers.read_metrics(tmp_path / "cut" / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation/loss" in row] == [0]
    assert not (tmp_path / "cut" / "grids").exists()
    assert train("cut") == lifecycle.ExitCode.OK
    assert looks("cut") == looks("straight")


def last_skipped(workdir):
    """The skipped batches of the newest checkpoint."""
    with store.CheckpointStore(workdir / "checkpoints") as stored:
        return recovery.load(stored.newest()[1])


def test_the_skipped_batches_of_a_checkpoint_are_read():
    assert recovery.load({}) == recovery.SkippedBatches()
    skipped = recovery.SkippedBatches(frozenset({6, 9}), 2)
    assert recovery.load({"passed_over": skipped.as_json()}) == skipped


def test_a_run_that_goes_back_too_often_has_diverged(make_config, tmp_path):
    changes = {
        "optim.learning_rate": 1e30,  # the second step computes no number any more
        "train.num_steps": 60,
        "train.max_skipped_in_a_row": 5,
        "train.max_rewinds": 2,
        "log.every_steps": 10,
        "checkpoint.every_steps": 1,
    }
    with pytest.raises(DivergedError, match=r"train\.max_rewinds") as error:
        loop.train(make_config(CLIP, changes), tmp_path)
    line = str(error.value)
    assert "\n" not in line
    assert "optim.learning_rate lower than 1e+30" in line
    first, last = map(int, re.search(r"steps (\d+) to (\d+)", line).groups())
    assert last == first + 4
    # Five steps were skipped twice before these.
    skipped_batches = last_skipped(tmp_path)
    assert skipped_batches.rewinds == 2
    assert skipped_batches.steps == set(range(first - 10, first))
    # Every update that was not made is described, once.
    skipped = metric_writers.read_metrics(tmp_path / "skipped.jsonl")
    assert [row["step"] for row in skipped] == list(range(first - 10, last + 1))
    assert len(skipped[0]["timestep"]) == len(skipped[0]["example_index"]) == 4
    assert all(map(math.isnan, skipped[-1]["loss"]))


def test_a_run_goes_back_and_past_the_batches_that_led_astray(
    make_config, tmp_path, monkeypatch
):
    changes = {
        "train.num_steps": 12,
        "train.max_skipped_in_a_row": 3,
        "checkpoint.every_steps": 1,
        "checkpoint.keep": 1,
    }
    config = make_config(CLIP, changes)

    def poison(step, batch):
        poison = np.float32(np.nan if step in {2, 6, 7, 8, 10} else 0.0)
        return batch | {"image": batch["image"] + poison}

    change_batches(monkeypatch, poison)
    assert loop.train(config, tmp_path) == lifecycle.ExitCode.OK
    # One or two in a row are no reason to go back.
    assert last_skipped(tmp_path) == recovery.SkippedBatches(frozenset({6, 7, 8}), 1)
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(1, 13)]
    assert [row["step"] for row in rows if "loss" not in row] == [6, 7, 8]
    assert [row["step"] for row in rows if row.get("skipped_updates")] == [2, 10]
    skipped = metric_writers.read_metrics(tmp_path / "skipped.jsonl")
    assert [row["step"] for row in skipped] == [2, 6, 7, 8, 10]
    run, state = setup.prepare(config, tmp_path)
    run.checkpoints.close()
    assert (int(state.step), int(state.updates)) == (12, 7)


def test_a_device_that_remembers_wrongly_is_found(tokenizer_folder, tmp_path):
    fake_devices.run_with_devices(
        f"""
        import dataclasses, pathlib
        import jax, pytest
        from glide_jax.errors import DivergedError
        from glide_jax.train import loop, setup
        from tests.train import small_runs

        def make_config(num_steps):
            changes = {{
                "train.check_replicas_every_steps": 2, "train.num_steps": num_steps
            }}
            folder = pathlib.Path("{tokenizer_folder}")
            return small_runs.make_config(folder, small_runs.CLIP, changes)

        def flip(x):
            copies = [shard.data for shard in x.addressable_shards]
            copies[1] = jax.device_put(copies[1] + 1e-6, copies[1].device)
            return jax.make_array_from_single_device_arrays(
                x.shape, x.sharding, copies
            )

        def prepare_broken(*args, **settings):
            run, state = prepare(*args, **settings)

            def train_step(state, batch, seed):
                state, *told = run.train_step(state, batch, seed)
                if int(state.step) == 4:
                    leaves, treedef = jax.tree.flatten(state.params)
                    params = treedef.unflatten([flip(leaves[0]), *leaves[1:]])
                    state = dataclasses.replace(state, params=params)
                return state, *told

            return dataclasses.replace(run, train_step=train_step), state

        workdir = pathlib.Path("{tmp_path}")
        loop.train(make_config(3), workdir)
        prepare, setup.prepare = setup.prepare, prepare_broken
        with pytest.raises(DivergedError, match="1 array differ, params/"):
            loop.train(make_config(5), workdir)
        setup.prepare = prepare
        assert loop.train(make_config(5), workdir) == 0
        """,
        devices=2,
    )


def test_an_overflow_at_the_loss_scales_floor_ends_the_run_with_its_reason(
    make_config, tmp_path
):
    changes = {
        "model.compute_dtype": "float16",
        "train.init_log2_loss_scale": 40.0,  # no gradient of float16 bears it
        "train.min_log2_loss_scale": 39.0,
        "train.num_steps": 9,
        "log.every_steps": 3,
    }
    with pytest.raises(
        DivergedError, match="at step 3 float16 gradients overflow"
    ) as error:
        loop.train(make_config(CLIP, changes), tmp_path)
    assert "train.min_log2_loss_scale=39" in str(error.value)


def test_a_second_start_counts_on_from_what_all_starts_have_used(make_config, tmp_path):
    path = tmp_path / "metrics.jsonl"
    loop.train(make_config(CLIP, {"train.num_steps": 2}), tmp_path)
    # A step that is lost to the second start, but whose device-hours were paid for.
    with path.open("a") as file:
        file.write('{"step": 3, "speed/device_hours": 100.0}\n')
    loop.train(make_config(CLIP, {"train.num_steps": 4}), tmp_path)
    rows = metric_writers.read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["speed/examples_seen"] for row in rows] == [4, 8, 12, 16]
    hours = [row["speed/device_hours"] for row in rows]
    assert 0 < hours[0] < hours[1] < 1 < 100 < hours[2] < hours[3] < 101


def test_the_parts_of_a_step_add_up_to_it(make_config, tmp_path):
    changes = {
        "data.validation_sources": ("shapes:quickstart",),
        "log.every_steps": 2,
        "log.validate_every_steps": 2,
        "log.validation_examples": 4,
        "checkpoint.every_steps": 3,
    }
    loop.train(make_config(CLIP, changes), tmp_path)
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    first, second, fourth = [row for row in rows if "loss" in row]
    for row in (first, second, fourth):
        parts = [
            row[f"speed/{name}_seconds"]
            for name in (*set(run_log.PARTS) - {"compile"}, "other")
        ]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(row["speed/step_seconds"])
        assert row["memory/host_peak_bytes"] > 0
    # Compiled once; validated before steps 1 and 3; saved between 2 and 4.
    assert [row.get("speed/compile_seconds", 0) > 0 for row in (first, second)] == [
        True,
        False,
    ]
    assert second["speed/evaluation_seconds"] == 0 < fourth["speed/evaluation_seconds"]
    assert second["speed/checkpoint_seconds"] == 0 < fourth["speed/checkpoint_seconds"]


def test_a_log_row_is_one_line_to_grep_for(make_config, tmp_path, caplog):
    with caplog.at_level("INFO"):
        loop.train(make_config(CLIP, {"log.every_steps": 4}), tmp_path)
    found = [
        line
        for line in caplog.messages
        if re.match(r"step \d+: .* images/s/chip", line)
    ]
    assert [line.split(":")[0] for line in found] == ["step 1", "step 4"]


def test_steps_are_traced_when_asked_for(make_config, tmp_path, caplog):
    with caplog.at_level("INFO"):
        loop.train(make_config(CLIP), tmp_path, profile_steps=range(2, 4))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert f"steps 2 to 3 were traced to {tmp_path / 'profile'}" in caplog.messages


def test_weights_and_biases_is_refused_at_once_where_it_is_not_installed(
    make_config, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"log.wandb_project='x' needs .*\[wandb\]"):
        loop.train(make_config(CLIP, {"log.wandb_project": "x"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()

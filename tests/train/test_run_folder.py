"""A folder belongs to one run: what may change between starts, and what may not."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil

import pytest

from glide_jax.checkpoint import store, verify
from glide_jax.config import resolve
from glide_jax.errors import NoCheckpointError, UserError
from glide_jax.train import loop, recovery, run_folder, setup
from tests.checkpoint import make_golden
from tests.train import small_runs
from tests.train.small_runs import CLIP


@pytest.fixture
def folder(make_config, tmp_path):
    """A workdir that holds the settings of a small run."""
    run_folder.save_config(tmp_path, make_config())
    return tmp_path


def check_continues(folder, config, allow_change=()):
    """Compares `config` with the settings of the folder."""
    meta = run_folder.convert_meta(folder, {})
    run_folder.check_continues(folder, config, meta, allow_change)


def test_the_settings_come_back(folder, make_config):
    assert run_folder.load_config(folder) == make_config()
    check_continues(folder, make_config())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model.text_layers": 2}, r"model\.text_layers: 1 -> 2"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"data.sources": ("shapes:full",)}, r"data\.sources"),
        ({"diffusion.schedule": "linear"}, r"diffusion\.schedule"),
        ({"ema.decays": (0.9,)}, r"ema\.decays"),
        ({"train.timestep_sampling": "loss_second_moment"}, "timestep_sampling"),
        ({"train.global_batch_size": 8}, "global_batch_size: 4 -> 8"),
        ({"train.caption_drop_prob": 0.1}, "caption_drop_prob"),
        ({"train.init_from": "elsewhere"}, "init_from:  -> elsewhere"),
        ({"train.loss_type": "mse"}, "loss_type: hybrid -> mse"),
        ({"data.tokenizer": "gpt2"}, "data.tokenizer"),
    ],
)
def test_a_change_of_what_is_trained_is_refused_and_named(
    folder, make_config, changes, named
):
    with pytest.raises(UserError, match=named):
        check_continues(folder, make_config(changes=changes))


@pytest.mark.parametrize("allowed", [["model.dropout_prob", "seed"], ["model", "seed"]])
def test_only_allowed_settings_may_change(folder, make_config, allowed):
    changed = make_config(changes={"model.dropout_prob": 0.5, "seed": 5})
    check_continues(folder, changed, allowed)
    with pytest.raises(UserError, match=r"seed: 0 -> 5; use .*--allow_change=seed$"):
        check_continues(folder, changed, allowed[:1])


def test_metadata_of_format_1_is_completed_from_the_folder(folder, make_config):
    golden = store.CheckpointStore(make_golden.FOLDER)
    meta = run_folder.convert_meta(folder, golden.newest()[1])
    assert meta.items() >= make_golden.META.items()
    assert resolve.from_json(json.dumps(meta["config"])) == make_config()
    assert recovery.load(meta) == recovery.SkippedBatches()
    skipped = recovery.SkippedBatches(frozenset({6, 9}), 2)
    (folder / "passed_over.json").write_text(json.dumps(skipped.as_json()))
    assert recovery.load(run_folder.convert_meta(folder, make_golden.META)) == skipped
    # Complete metadata is not changed.
    assert run_folder.convert_meta(folder, meta) == meta


@pytest.mark.parametrize("content", ["", "[]", '{"steps": []}'])
def test_a_damaged_list_of_skipped_steps_is_refused(folder, content):
    (folder / "passed_over.json").write_text(content)
    with pytest.raises(UserError, match=r"passed_over\.json"):
        run_folder.convert_meta(folder, {})


# A change of each setting that says which run it is, and of those beside them.
CHANGES = {
    "seed": 1,
    "model.text_layers": 2,
    "model.compute_dtype": "bfloat16",
    "data.sources": ("shapes:full",),
    "data.tokenizer": "byte",
    "train.global_batch_size": 8,
    "train.init_from": "elsewhere",
    "optim.name": "lion",
    "optim.moments_dtype": "bfloat16",
    "optim.weight_decay": 0.1,
    "optim.grad_clip_norm": 1.0,
    "ema.decays": (0.9,),
}


@pytest.fixture(scope="module")
def begun(tokenizer_folder, tmp_path_factory):
    """A run of one step, to resume."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    run, state = setup.prepare(small_runs.make_config(tokenizer_folder, CLIP), workdir)
    run.save(state, 1, {})
    run.checkpoints.close()
    return workdir


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_offered_to_be_allowed_can_be_gone_on_with(
    begun, make_config, tmp_path, name
):
    workdir = shutil.copytree(begun, tmp_path / "run")
    changed = make_config(CLIP, {name: CHANGES[name]})

    def go_on(*allowed):
        run, _ = setup.prepare(changed, workdir, allow_change=allowed)
        run.checkpoints.close()

    if not run_folder.differing(make_config(CLIP), changed):
        go_on()
        return
    with pytest.raises(UserError, match="holds another run") as refused:
        go_on()
    offered = str(refused.value).partition("--allow_change=")[2]
    if offered:
        go_on(*offered.split(","))
        return
    with pytest.raises(UserError, match="use the configuration that") as error:
        go_on(name)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_a_model_of_another_family_is_refused(folder, make_config):
    with pytest.raises(UserError, match="text2im -> noised_clip"):
        check_continues(folder, make_config(CLIP))


@pytest.mark.parametrize(
    "changes",
    [
        {"train.num_steps": 9},
        {"optim.learning_rate": 1e-5},
        {"optim.grad_clip_norm": 1.0, "optim.weight_decay": 0.1},
        {"log.every_steps": 7, "checkpoint.every_steps": 3},
        {"data.max_bad_frac": 0.5, "data.num_threads": 3, "data.prefetch_batches": 1},
        {"sample.guidance_scale": 5.0, "data.validation_sources": ("shapes:full",)},
        {"data.tokenizer": ""},  # the run goes on with its own
    ],
)
def test_a_change_of_how_long_or_how_fast_is_taken_over(folder, make_config, changes):
    changed = make_config(changes=changes)
    check_continues(folder, changed)
    run_folder.save_config(folder, changed)
    assert run_folder.load_config(folder) == changed
    assert resolve.differences(make_config(), changed)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as error:
        run_folder.prepare(tmp_path / "file" / "run")
    assert "\n" not in str(error.value)


def test_trying_a_folder_leaves_no_trace(tmp_path):
    run_folder.prepare(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_of_something_else_is_no_workdir(tmp_path):
    with pytest.raises(UserError, match="not a workdir"):
        run_folder.load_config(tmp_path)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b'{"optm": {}}'], ids=["cut", "not_utf8", "unknown_key"]
)
def test_a_damaged_config_is_named_by_its_path(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json") as error:
        run_folder.load_config(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_process_0_does_not_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "SEEN_WITHIN_SECS", 0)
    # As on a host whose disk is its own: what process 0 wrote is not there.
    monkeypatch.setattr(
        run_folder.distributed, "from_first", lambda name, make: b"written elsewhere"
    )
    with pytest.raises(UserError, match=r"--workdir=.* all hosts"):
        run_folder.prepare(tmp_path)


def test_a_full_disk_is_a_one_line_error(tmp_path):
    with (
        pytest.raises(UserError, match=r"No space left on device\)") as told,
        run_folder.needs_room(tmp_path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "\n" not in str(told.value)
    with pytest.raises(PermissionError), run_folder.needs_room(tmp_path):
        raise PermissionError(errno.EACCES, "is no matter of room")


def test_a_start_after_a_checkpoint_does_not_write_its_tokenizer_again(
    make_config, tmp_path
):
    config = make_config(CLIP)
    run, state = setup.prepare(config, tmp_path)
    run.save(state, 1, {})
    run.checkpoints.close()

    def stamps():
        files = (tmp_path / "tokenizer").iterdir()
        return {path.name: path.stat().st_mtime_ns for path in files}

    before = stamps()
    assert before
    setup.prepare(config, tmp_path)
    assert stamps() == before


def hide_in_a_link(path):
    """Leaves what a disk that is not mounted leaves: a link to nowhere."""
    path.rename(path.with_name(f"{path.name}_elsewhere"))
    path.symlink_to(path.with_name("not_mounted"))


def remove(path):
    shutil.rmtree(path)


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def replace_by_a_file(path):
    shutil.rmtree(path)
    path.write_text("")


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/1"])
@pytest.mark.parametrize("lose", [hide_in_a_link, remove, empty, replace_by_a_file])
def test_a_run_does_not_start_over_when_its_checkpoints_cannot_be_listed(
    begun, make_config, tmp_path, name, lose
):
    workdir = shutil.copytree(begun, tmp_path / "run")
    lose(workdir / name)
    config = make_config(CLIP, {"checkpoint.every_steps": 1})
    run_folder.save_config(workdir, config)
    rows = "".join(f'{{"step": {step}}}\n' for step in range(1, 6))
    (workdir / "metrics.jsonl").write_text(rows)
    with pytest.raises(NoCheckpointError, match="--workdir") as error:
        loop.train(config, workdir)
    assert "\n" not in str(error.value)
    assert (workdir / "metrics.jsonl").read_text() == rows


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    make_config, tmp_path
):
    config = make_config(CLIP, {"checkpoint.every_steps": 2})
    run_folder.save_config(tmp_path, config)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    run_folder.check_begins(tmp_path, config)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}\n')
    with pytest.raises(NoCheckpointError, match="step 3"):
        run_folder.check_begins(tmp_path, config)
    # Its first saves have failed, and left the folder that they made.
    (tmp_path / "checkpoints").mkdir()
    run_folder.check_begins(tmp_path, config)


def test_a_start_that_was_cut_off_leaves_the_run_as_it_was(
    begun, make_config, tmp_path
):
    workdir = shutil.copytree(begun, tmp_path / "run")
    other = make_config(CLIP, {"seed": 5})
    # Allowed, and killed before its first checkpoint.
    run_folder.save_config(workdir, other)
    with pytest.raises(UserError, match="seed: 0 -> 5"):
        setup.prepare(other, workdir)
    run, _ = setup.prepare(make_config(CLIP), workdir)
    run.checkpoints.close()
    assert run_folder.load_config(workdir) == make_config(CLIP)


@pytest.mark.parametrize("cut_off", [".manifest.json.tmp", "config.json.tmp"])
def test_a_start_that_is_killed_between_two_files_is_no_damage(
    begun, make_config, tmp_path, monkeypatch, cut_off
):
    workdir = shutil.copytree(begun, tmp_path / "run")
    replace, left = os.replace, {}

    def killed(source, target):
        if pathlib.Path(source).name == cut_off:
            left[pathlib.Path(source)] = pathlib.Path(source).read_bytes()
            raise KeyboardInterrupt
        replace(source, target)

    longer = make_config(CLIP, {"train.num_steps": 9})
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run_folder.save_config(workdir, longer)
    # A process that is killed removes nothing.
    for path, content in left.items():
        path.write_bytes(content)
    assert len(left) == 1
    assert verify.check(workdir).damaged == {}
    run, _ = setup.prepare(make_config(CLIP), workdir)
    run.checkpoints.close()
    assert verify.check(workdir).damaged == {}

"""`glide benchmark`: one row, and errors in one line."""

from __future__ import annotations

import json

import pytest

from glide_jax.cli import benchmark_sample, benchmark_train, main
from tests import fake_devices

CONFIGS = fake_devices.ROOT / "experiments" / "configs"
TINY = f"--config={CONFIGS / 'base64.py'}:tiny"
UPSAMPLER = f"--upsampler_config={CONFIGS / 'upsample256.py'}:icons"
SMALL = (
    "--config.model.image_px=16",
    "--config.model.channel_mult=(1,)",
    "--config.model.num_res_blocks=1",
    "--config.model.attention_px=()",
    "--config.model.text_layers=1",
)


def test_a_row_is_printed_and_added_to_the_file(tmp_path, capsys, monkeypatch):
    from glide_jax.bench import machine

    monkeypatch.setattr(machine, "_MATMUL_SIDES", {"default": (64,)})  # quicker
    output = tmp_path / "rows.jsonl"
    output.write_text('{"row": "before"}\n')
    command = ["benchmark", "sample", TINY, *SMALL, "--guidance_mode=none"]
    flags = ["--respacing=2", "--compute_dtype=bfloat16", f"--output={output}"]
    assert main.run([*command, *flags]) == 0
    (printed,) = capsys.readouterr().out.splitlines()
    before, written = output.read_text().splitlines()
    assert before == '{"row": "before"}'
    assert written == printed
    row = json.loads(printed)
    assert row["compute_dtype"] == "bfloat16"
    assert row["repeats"] == 5
    assert row["stages"]["base"]["passes"] == 2


def test_a_row_of_training_has_the_batch_that_was_asked_for(capsys, monkeypatch):
    from glide_jax.bench import machine

    monkeypatch.setattr(machine, "_MATMUL_SIDES", {"default": (64,)})
    flags = ["--batch=2", "--compute_dtype=float32", "--by_instruction"]
    assert main.run(["benchmark", "train", TINY, *SMALL, *flags]) == 0
    printed = capsys.readouterr()
    row = json.loads(printed.out)
    assert (row["benchmark"], row["batch"], row["repeats"]) == ("train", 2, 10)
    # The same rows, as a table.
    kinds = [found["kind"] for found in row["instructions"]]
    assert {"convolution", "matrix product"} <= set(kinds)
    table = printed.err[printed.err.index("TFLOP") :].splitlines()[1:]
    assert len(table) == len(kinds) + 1
    assert all(line.startswith(kind) for line, kind in zip(table, kinds, strict=False))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "'benchmark' is not a verb"),
        (["export"], "'benchmark export' is not a verb"),
        (["sample", "train"], "'train' is not a flag"),
        (["sample"], "--config is missing"),
        (["sample", "--config=absent.py"], "absent.py"),
        (["sample", TINY, "--upsampler_config=absent.py"], "absent.py"),
        (["sample", TINY, "--upsampler_respacing=2"], "requires --upsampler_config"),
        (["sample", TINY, "--repeats=2"], "--repeats=2"),
        (["sample", TINY, "--passes=0"], "passes"),
        (["sample", TINY, "--guidance_mode=clip"], "guidance_mode"),
        (["sample", TINY, "--respacing=many"], "many"),
        (["sample", TINY, "--compute_dtype=int8"], "int8"),
        (["sample", TINY, UPSAMPLER], "image_px=16"),
        (["sample", TINY, "--output=absent/rows.jsonl"], "absent/rows.jsonl"),
        (["train"], "--config is missing"),
        (["train", TINY, "--repeats=9"], "use 10 or more"),
        (["train", TINY, "--passes=2"], "passes"),
        (["train", TINY, "--guidance_mode=cfg"], "guidance_mode"),
        (["train", TINY, "--respacing=2"], "respacing"),
        (["train", TINY, UPSAMPLER], "upsampler_config"),
        (["train", TINY, "--batch=0"], "batch"),
        (["train", TINY, "--config.mesh.fsdp=3"], "mesh.fsdp=3"),
        (["train", TINY, "--output=absent/rows.jsonl"], "absent/rows.jsonl"),
    ],
)
def test_a_user_error_is_one_line(refused, flags, named):
    assert named in refused("benchmark", *flags)


def test_the_minimum_of_repeats_is_the_same_in_help_and_code():
    from glide_jax.bench import timing, training

    assert benchmark_sample.MIN_REPEATS == timing.MIN_REPEATS
    assert benchmark_train.MIN_REPEATS == training.MIN_REPEATS

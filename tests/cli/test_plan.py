"""`glide plan`: a text page or one JSON object, and errors in one line."""

from __future__ import annotations

import json

import pytest

from glide_jax.cli import main, plan
from tests import fake_devices

CONFIGS = fake_devices.ROOT / "experiments" / "configs"
BASE = f"--config={CONFIGS / 'base64.py'}"
UPSAMPLER = f"--config={CONFIGS / 'upsample256.py'}"
CLIP_ALONE = f"--config={CONFIGS / 'noised_clip64.py'}"
CLIP = f"--clip_config={CONFIGS / 'noised_clip64.py'}"
GUIDED = ["--guidance_mode=clip"]
WHERE = "--topology=v5p:4x4x8"
PICTURES = [WHERE, "--pictures=8"]


def planned(capsys, *flags: str) -> dict:
    """The JSON of a plan."""
    assert main.run(["plan", *flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_report_has_the_published_sizes(capsys):
    # Those of the other models: tests/models/test_build.py and test_flops.py.
    report = planned(capsys, f"{BASE}:released", WHERE)
    # One per cent: the published figures of operations are rounded.
    assert report["forward_gflop_per_image"] == pytest.approx(238, rel=0.01)
    assert report["params_total"] == sum(report["params_by_part"].values())
    assert report["params_total"] == 385_030_726


def test_the_report_is_complete_and_adds_up(capsys):
    report = planned(capsys, f"{BASE}:paper", WHERE, "--price=4.2", "--mfu=0.5")
    sizes = report["bytes_per_device"]
    at_once = ("params", "moments", "ema", "teacher", "batch", "step")
    assert sizes["total"] == sum(sizes[part] for part in at_once)
    assert set(sizes) == {*at_once, "grads", "activations", "work", "total"}
    assert report["topology"]["sold_as"] == "v5p-256"
    assert report["mfu"] == 0.5
    hours = report["seconds_per_step"] * 2_500_000 / 3600
    assert report["days"] == pytest.approx(hours / 24)
    assert report["chip_hours"] == pytest.approx(128 * hours)
    assert report["cost"] == pytest.approx(4.2 * report["chip_hours"])
    assert report["checkpoint_bytes"] > 4 * 4 * report["params_total"]
    assert report["host_bytes_peak"] == sum(report["host_bytes"].values())
    assert {row["operation"] for row in report["collectives"]} == {
        *("all-gather", "reduce-scatter", "all-reduce")
    }
    assert report["compiler"] is None
    assert report["missing"] == []


def test_the_page_answers_in_order(capsys):
    batch = "--config.train.global_batch_size=64"
    flags = [f"{BASE}:tiny", batch, "--chips=h100:64", "--price=2"]
    assert main.run(["plan", *flags]) == 0
    page = capsys.readouterr().out
    heads = ["PARAMETERS", "MEMORY", "TIME", "NETWORK", "CHECKPOINT", "HOST MEMORY"]
    places = [page.index(head) for head in heads]
    assert places == sorted(places)
    assert "64 h100 chips" in page
    assert "chip-hours" in page
    assert "NVLink" in page
    assert max(map(len, page.splitlines())) <= 100


def test_guidance_costs_what_its_models_compute(capsys):
    base = f"{CONFIGS / 'base64_cfg.py'}:released"
    plain, guided, clip = (
        planned(capsys, f"--config={base}", *PICTURES, *flags)["drawing"]
        for flags in (
            ["--guidance_mode=none"],
            [],
            [*GUIDED, f"{CLIP}:released"],
        )
    )
    modes = [drawn["guidance_mode"] for drawn in (plain, guided, clip)]
    assert modes == ["none", "cfg", "clip"]
    assert guided["passes"] == 2 * plain["passes"] == 2 * clip["passes"]
    assert plain["flops_per_picture"] < clip["flops_per_picture"]


def test_compile_without_a_compiler_is_an_error(capsys, monkeypatch):
    from glide_jax.plan import abstract_devices

    batch = "--config.train.global_batch_size=128"
    words = ["plan", f"{BASE}:tiny", batch, "--compile"]
    monkeypatch.setattr(abstract_devices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(abstract_devices, "_version", lambda package: "")
    for where in ("--chips=l4:8", "--chips=h100:8", WHERE):
        assert main.run([*words, where]) == 2
    unknown, gpu, tpu = capsys.readouterr().err.splitlines()
    assert "no description of l4" in unknown
    assert "jax-cuda13-plugin" in gpu
    assert 'pip install -e ".[gpu-compile]"' in gpu
    assert 'pip install -e ".[tpu]"' in tpu


@pytest.mark.parametrize("package", ["jax-cuda13-plugin", "jax-cuda13-pjrt"])
def test_a_plugin_of_another_version_is_an_error(capsys, monkeypatch, package):
    from glide_jax.plan import abstract_devices

    versions = {package: "0.10.1"}
    monkeypatch.setattr(
        abstract_devices, "_version", lambda package: versions.get(package, "0.10.2")
    )
    batch = "--config.train.global_batch_size=128"
    assert main.run(["plan", f"{BASE}:tiny", batch, "--compile", "--chips=h100:8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{package} 0.10.1" in line
    assert "pip install jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2" in line


def test_a_search_without_a_compiler_ranks_by_formula_and_says_so(capsys):
    assert main.run(["plan", f"{BASE}:tiny", "--chips=l4:8", "--search"]) == 0
    page = capsys.readouterr().out
    assert "missing: no description of l4" in page
    assert "75% of 24 GB" in page


def test_a_search_plans_with_its_best_option(capsys):
    report = planned(capsys, f"{BASE}:tiny", "--chips=l4:8", "--search")
    best = report["ranking"][0]
    assert report["run"]["remat"] == best["remat"]
    assert report["run"]["microbatches"] == best["microbatches"]
    assert report["bytes_per_device"]["total"] == best["bytes_per_device"]


def test_a_run_that_does_not_fit_has_advice(capsys):
    batch = "--config.train.global_batch_size=65536"
    report = planned(capsys, f"{BASE}:tiny", "--topology=v5e:2x2", batch)
    assert not report["fits"]
    assert "--config.train.remat" in report["advice"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([WHERE], "--config is missing"),
        (["--config=absent.py", WHERE], "absent.py"),
        ([f"{BASE}:huge", WHERE], "huge"),
        ([f"{BASE}:paper"], "neither given"),
        ([f"{BASE}:paper", "--topology=v5p:5x5x5"], "4x4x8"),
        ([f"{BASE}:paper", "--topology=v7x:2x2x1"], "tpu7x"),
        ([f"{BASE}:paper", "--chips=tpu:8"], "h100"),
        ([f"{BASE}:paper", "--chips=h100:8", "--slices=2"], "--slices=2"),
        ([f"{BASE}:paper", WHERE, "--slices=0"], "slices"),
        ([f"{BASE}:paper", WHERE, "--mfu=2"], "--mfu=2"),
        ([f"{BASE}:paper", WHERE, "--mfu=nan"], "--mfu=nan"),
        ([f"{BASE}:paper", WHERE, "--price=-1"], "--price=-1"),
        ([f"{BASE}:paper", WHERE, "now"], "'now' is not a flag"),
        ([f"{BASE}:paper", WHERE, "--guidance_mode=cfg"], "give --pictures=N"),
        ([f"{BASE}:paper", WHERE, f"{CLIP}:paper"], "give --pictures=N"),
        ([f"{BASE}:paper", *PICTURES, "--guidance_mode=clip"], "--clip_config"),
        ([f"{BASE}:paper", *PICTURES, f"{CLIP}:paper"], "reads no CLIP"),
        ([f"{BASE}:paper", *PICTURES, *GUIDED, f"{CLIP}:tiny"], "reads 16 px"),
        (
            [f"{BASE}:paper", *PICTURES, "--inpaint_mode=pinned"],
            "inpaint_mode=implicit",
        ),
        ([f"{UPSAMPLER}:paper", *PICTURES, "--guidance_mode=cfg"], "an upsampler"),
        (
            [f"{CLIP_ALONE}:paper", *PICTURES, "--guidance_mode=clip"],
            "guidance_mode has no effect",
        ),
        ([f"{BASE}:paper", WHERE, "--config.mesh.fsdp=3"], "does not divide"),
        ([f"{BASE}:paper", WHERE, "--config.mesh.data=8"], "does not equal"),
        (
            [f"{BASE}:paper", WHERE, "--config.mesh.data_dcn=2"],
            "the number of slices is 1",
        ),
        (
            [f"{BASE}:paper", WHERE, "--config.train.global_batch_size=100"],
            "not divisible by 128",
        ),
        (
            [f"{BASE}:paper", WHERE, "--config.train.microbatches=32"],
            "32 microbatches",
        ),
        ([f"{BASE}:paper", WHERE, "--config.mesh.tensor=5"], "tensor"),
        ([f"{BASE}:paper", WHERE, "--config.train.remat=('some',)"], "some"),
        ([f"{BASE}:paper", WHERE, "--config.optim.learning_rate=-1"], "learning_rate"),
    ],
)
def test_a_user_error_is_one_line(refused, flags, named):
    assert named in refused("plan", *flags)


def test_the_help_and_the_formula_agree_on_the_assumed_mfu():
    from glide_jax.plan import cost

    assert plan.DEFAULT_MFU == cost.DEFAULT_MFU

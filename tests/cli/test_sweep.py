"""`glide sweep`: its mistakes, one line each, and what it shows of a folder."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from glide_jax.cli import main
from glide_jax.config import defaults, resolve
from glide_jax.eval import npz_files
from glide_jax.sample import restore
from glide_jax.sweep import result, run_list, run_supervisor, state, sweep_file
from tests import fake_devices

BASE64 = fake_devices.ROOT / "experiments" / "configs" / "base64.py"
ROOT = "--root=root"


def write(path: pathlib.Path, runs: str, command: str) -> str:
    path.write_text(f"COMMAND = {command!r}\ndef sweep(): return {runs}\n")
    return str(path)


@pytest.fixture(autouse=True)
def _nothing_is_started(monkeypatch):
    monkeypatch.setattr(run_supervisor, "GLIDE", ("false",))


@pytest.fixture
def file(tmp_path):
    """file("[{'seed': 0}]") -> a sweep file of training runs."""

    def make(runs: str, command: str = f"train --config={BASE64}:tiny") -> str:
        return write(tmp_path / "small.py", runs, command)

    return make


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "--root is missing"),
        ([ROOT], "no sweep file is given"),
        ([ROOT, "absent.py"], "there is no sweep file absent.py"),
        ([ROOT, "--runner=ssh"], "--runner=ssh is not known; use one of local, slurm"),
        ([ROOT, "--parallel=0"], "--parallel=0 is below 1; use 1 or more"),
        ([ROOT, "--restarts=-1"], "restarts"),
        ([ROOT, "--status"], "--root=root has no plan.json"),
        ([ROOT, "--report"], "--root=root has no plan.json"),
        ([ROOT, "--rows=a.jsonl"], "--rows is read only with --report"),
        ([ROOT, "--watch=5"], "--watch=5 needs --status"),
        ([ROOT, "--status", "--watch=0"], "--watch=0 needs --status"),
        ([ROOT, "--status", "--watch=inf"], "--watch=inf needs --status"),
        ([ROOT, "--gpus=1"], "--gpus is read only by --runner=slurm"),
        (
            [ROOT, "--runner=slurm", "--image=a"],
            "--image is read only by --runner=jobset",
        ),
        ([ROOT, "--parralel=2"], "parralel"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(refused, flags, named):
    assert named in refused("sweep", *flags)


@pytest.mark.parametrize(
    ("runs", "more", "named"),
    [
        ("[{'optim.learning_rte': 1}]", [], "did you mean optim.learning_rate?"),
        ("[{'seed': 1}, {'seed': -1}]", [], "small, run seed=-1: seed=-1"),
        ("[{'train.num_steps': 'many'}]", [], "num_steps"),
        ("[{'ema.decays': 'long'}]", [], "ema.decays"),
        ("[{'seed': 1}]", ["--config.sed=2"], "small, run seed=1: "),
        (
            "[{'seed': 1}]",
            ["other.py"],
            "'other.py' is not a flag; give one sweep file",
        ),
        (
            "[{'seed': 1}]",
            ["--only=abc"],
            "--only=abc is not a run of small; its first",
        ),
        ("[{'seed': 1}, {'seed': 1}]", [], "runs 0 and 1 of small are the same"),
        ("[]", [], "returned no runs"),
        ("(sed for _ in [0])", [], "NameError: name 'sed' is not defined"),
        ("exit(3)", [], "SystemExit: 3; correct the sweep file"),
    ],
)
def test_a_run_that_would_be_refused_is_refused_before_any_starts(
    refused, file, runs, more, named
):
    path = file(runs)
    own = [word for word in more if word.startswith("--only")]
    shared = ["--", *(word for word in more if word not in own)]
    assert named in refused("sweep", path, ROOT, *own, *shared)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("trian --config=a.py", "starts with 'trian', which cannot be swept"),
        ("sweep a.py", "starts with 'sweep', which cannot be swept"),
        ("--config=a.py", "starts with '--config=a.py', which cannot be swept"),
        ("sample --base=b", "Did you mean: guidance_scale"),
        ("evaluate", "Did you mean: guidance_scale"),
        ("sample --output=b", "sets --output=b, but a sweep names each run's folder"),
        ("sample --base='b", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_be_swept_is_refused(refused, file, command, named):
    assert named in refused("sweep", file("[{'guidence_scale': 3}]", command), ROOT)


def test_a_folder_of_another_sweep_is_refused(refused, file, tmp_path):
    run_list.keep(
        run_list.Plan("other", ("train",), (), (run_list.SweepRun("a", "", {}),)),
        tmp_path / "root",
    )
    line = refused("sweep", file("[{'seed': 1}]"), ROOT)
    assert "holds another sweep: the sweep was 'other' and is 'small'" in line


def test_a_clusters_flags_are_checked_by_its_runner(refused, file):
    path = file("[{'seed': 1}]")
    slurm = ("sweep", path, ROOT, "--runner=slurm", "--dry_run")
    assert "--chip=h1 is not known; use one of" in refused(*slurm, "--chip=h1")


def test_runs_that_have_failed_are_left_alone_until_they_are_asked_for(
    file, tmp_path, capsys, caplog, monkeypatch
):
    """Started is `false`, which fails, in the place of `glide`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        run_supervisor, "GLIDE", ("bash", "-c", "echo $2 >>calls; exit 2", "")
    )
    argv = ["sweep", file("[{'seed': 0}, {'seed': 1}]"), ROOT]
    assert main.run(argv) == 2
    calls = tmp_path / "calls"
    first, second = calls.read_text().split()
    entry = state.RunRecord(tmp_path / "root", first.removeprefix("--only="))
    entry.begin()
    entry.end(4)
    assert main.run(argv) == 2
    assert calls.read_text().split()[2:] == [second]
    assert "1 failed runs are not started again, seed=0 first" in caplog.text
    assert main.run([*argv, "--retry_failed"]) == 2
    assert calls.read_text().split()[3:] == [first, second]


def test_the_plan_outlives_a_change_of_its_file(file, tmp_path, monkeypatch):
    """A task that waits for its node may start long after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_supervisor, "GLIDE", ("bash", "-c", "exit 3", ""))
    path = file("[{'seed': 0}]")
    assert main.run(["sweep", path, ROOT]) == 3
    (run,) = run_list.read(tmp_path / "root").runs
    file("[{'seed': 1}]")
    assert main.run(["sweep", path, ROOT, f"--only={run.id}"]) == 3
    attempts = state.RunRecord(tmp_path / "root", run.id).attempts()
    assert [one.code for one in attempts] == [3]


def finish(entry, verb, settings):
    entry.folder.mkdir(parents=True)
    fields = {"verb": verb, "settings": settings, "metrics": {}, "machine": {}}
    result.write(entry.result, {"schema": result.SCHEMA, **fields})


@pytest.mark.parametrize("changed", ["base", "clip", "judge"])
def test_a_finished_evaluation_of_bundles_that_were_replaced_is_refused(
    refused, file, tmp_path, monkeypatch, capsys, caplog, changed
):
    monkeypatch.chdir(tmp_path)
    digests = {}
    for name in ("base", "clip", "judge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text(name)
        digests[name] = restore.bundle_digest(tmp_path / name)[:12]
    command = "evaluate --base=base --clip=clip --features=clip:judge"
    command += " --captions_of=shapes:quickstart"
    argv = ["sweep", file("[{'guidance_scale': 2.0}]", command), ROOT]
    assert main.run([*argv, "--runner=print"]) == 0
    (run,) = run_list.read(tmp_path / "root").runs
    judge = f"noised_clip {digests.pop('judge')}"
    settings = {"pictures": {"bundles": digests}, "features": judge, "judge": judge}
    finish(state.RunRecord(tmp_path / "root", run.id), "evaluate", settings)
    assert main.run([*argv, "--runner=print"]) == 0
    (tmp_path / changed / "bundle.json").write_text("trained anew")
    capsys.readouterr()
    caplog.clear()
    line = refused(*argv)
    assert "small, run guidance_scale=2: it is finished, with another" in line
    assert f" in {changed} (bundle " in line
    assert "name another --root" in line


def test_a_finished_evaluation_against_a_reference_that_was_replaced_is_refused(
    refused, file, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(tmp_path)
    np.savez("ref.npz", mu=np.zeros(2))
    command = "evaluate --images=a.npz --features=clip:judge --reference=ref.npz"
    argv = ["sweep", file("[{'seed': 2}]", command), ROOT]
    assert main.run([*argv, "--runner=print"]) == 0
    (run,) = run_list.read(tmp_path / "root").runs
    settings = {"reference": {"file_digest": npz_files.digest("ref.npz")}}
    finish(state.RunRecord(tmp_path / "root", run.id), "evaluate", settings)
    assert main.run([*argv, "--runner=print"]) == 0
    np.savez("ref.npz", mu=np.ones(2))
    capsys.readouterr()
    caplog.clear()
    line = refused(*argv)
    assert "it is finished, with another reference in ref.npz (contents " in line
    assert "name another --root" in line


def test_a_finished_training_run_of_a_configuration_that_changed_is_refused(
    refused, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.py"
    text = (
        "from glide_jax.config import defaults, resolve\n"
        "def get_config(name=''):\n"
        "    made = resolve.to_config_dict(defaults.Config())\n"
        "    made.optim.warmup_steps = 30\n"
        "    return made\n"
    )
    config.write_text(text)
    argv = [
        "sweep",
        write(tmp_path / "small.py", "[{'seed': 0}]", f"train --config={config}"),
        ROOT,
    ]
    assert main.run([*argv, "--runner=print"]) == 0
    (run,) = run_list.read(tmp_path / "root").runs
    made = resolve.override(defaults.Config(), {"optim.warmup_steps": 30})
    settings = json.loads(resolve.to_json(made))
    finish(state.RunRecord(tmp_path / "root", run.id), "train", settings)
    assert main.run([*argv, "--runner=print"]) == 0
    config.write_text(text.replace("30", "40"))
    capsys.readouterr()
    caplog.clear()
    line = refused(*argv)
    assert "it is finished, and its configuration has changed" in line
    assert "(optim.warmup_steps: 30 -> 40); name another --root" in line


def test_the_help_names_what_a_root_and_many_gpus_need(capsys):
    assert main.run(["sweep", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "on a disk with file locks" in text
    assert "set CUDA_VISIBLE_DEVICES=0,1" in text


def test_status_and_report_need_no_sweep_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_list.SweepRun("a" * 10, "seed=1", {"seed": 1})
    run_list.keep(run_list.Plan("small", ("evaluate",), (), (run,)), tmp_path / "root")
    assert main.run(["sweep", ROOT, "--status"]) == 0
    assert "small: 1 waiting" in capsys.readouterr().out
    assert main.run(["sweep", ROOT, "--report"]) == 2
    assert "no run of small is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "runs", "named"),
    [
        (None, "[{'seed': 0}, {'data.sources': 'folder:no'}]", "run sources=folder:no"),
        (None, "[{'data.sources': ('folder:no',)}]", "data.sources: folder:no is not"),
        (None, "[{'data.validation_sources': 'folder:no'}]", "data.validation_sources"),
        (None, "[{'train.init_from': 'no'}]", "train.init_from=no does not exist"),
        (None, "[{'data.tokenizer': 'no'}]", "data.tokenizer: tokenizer 'no' is"),
        ("evaluate --images=a.npz", "[{'seed': 1}]", "--images=a.npz is not a file"),
        ("evaluate", "[{'base': 'no'}]", "run base=no: --base=no is not a bundle"),
        ("evaluate", "[{'features': 'clip:no'}]", "--features=no is not a bundle"),
        ("evaluate", "[{'reference': 'no'}]", "--reference=no is not a file or folder"),
        ("evaluate", "[{'captions_of': 'folder:no'}]", "--captions_of: folder:no is"),
    ],
)
@pytest.mark.parametrize("runner", ["local", "slurm"])
def test_inputs_of_the_runs_are_checked_before_any_is_started(
    refused, file, tmp_path, capsys, caplog, runner, command, runs, named
):
    path = file(runs, *([command] if command else []))
    argv = ["sweep", path, ROOT, f"--runner={runner}"]
    assert named in refused(*argv)
    assert main.run([*argv, "--dry_run", "--nocheck_inputs"]) == 0


def test_what_another_run_of_the_sweep_makes_need_not_be_there(
    refused, file, tmp_path, capsys, caplog
):
    path = file("[{'seed': 0}]")
    (run,) = run_list.make(sweep_file.load(pathlib.Path(path))).runs
    made = f"root/runs/{run.id}"
    argv = ["sweep", path, ROOT, "--dry_run"]
    file(f"[{{'seed': 0}}, {{'train.init_from': '{made}/bundle'}}]")
    assert main.run(argv) == 0
    capsys.readouterr()
    file("[{'seed': 0}, {'train.init_from': 'root/runs/another/bundle'}]")
    assert "another/bundle does not exist" in refused(*argv)


def test_data_of_another_machine_are_not_checked(file, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    path = file("[{'data.sources': 'folder:/volume/photos'}]")
    with caplog.at_level("INFO"):
        assert main.run(["sweep", path, ROOT, "--runner=print"]) == 0
    assert "are not checked (--runner=print)" in caplog.text

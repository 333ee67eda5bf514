"""launch/run_on_host.sh: flags, log, signals, exit codes, restarts.

`glide` is a stand-in here: a Python of a made-up environment that does what the test
says. Slurm's test runs the whole of it.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

from tests.launch import launchers

HOST = socket.gethostname()
WORDS = ("--config=a.py:tiny", "--config.data.sources=('x y',)")


def handle_signals() -> None:
    """What these tests are started by, such as nohup, may have had some ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def host(tmp_path):
    """host(SCRIPT, FLAGS...) -> the started run_on_host.sh; SCRIPT is what trains."""
    started = []

    def start(
        script: str, *flags: str, words: tuple[str, ...] = WORDS, **environment: str
    ) -> subprocess.Popen:
        launchers.write_program(
            tmp_path / "bin",
            "python",
            '[ "$3" = flags ] && { echo "export XLA_FLAGS=chosen"; exit; }\n'
            f'echo "$@" >>"{tmp_path}/calls"\n{script}',
        )
        process = subprocess.Popen(
            [
                launchers.LAUNCH / "run_on_host.sh",
                f"--workdir={tmp_path}/run",
                *flags,
                "--",
                *words,
            ],
            env={
                **os.environ,
                "VIRTUAL_ENV": str(tmp_path),
                "TMPDIR": str(tmp_path),
                "GLIDE_JAX_RESTART_PAUSE_SECS": "0",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=handle_signals,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()


def wait_for(path: pathlib.Path) -> None:
    """Until the file is there."""
    for _ in range(200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} has not come")


@pytest.mark.parametrize("code", [0, 2, 42, 134])
def test_the_exit_code_is_that_of_the_run(host, tmp_path, code):
    process = host(f"exit {code}", f"--codes={tmp_path}")
    assert process.wait(timeout=30) == code
    left = tmp_path / f"exit.{HOST}.0"
    assert left.read_text() == f"{code}\n"


def test_arguments_are_passed_unchanged(host, tmp_path):
    script = f'printf "%s\\n" "$@" >"{tmp_path}/arguments"'
    assert host(script).wait(timeout=30) == 0
    assert (tmp_path / "arguments").read_text().splitlines() == [
        *("-m", "glide_jax.cli.main", "train", f"--workdir={tmp_path}/run"),
        *WORDS,
    ]


def test_another_verb_writes_into_the_workdir(host, tmp_path):
    script = f'printf "%s\n" "$@" >"{tmp_path}/arguments"'
    words = ("evaluate", "--base=a b", "--num_images=4")
    assert host(script, "--grace=170", words=words).wait(timeout=30) == 0
    assert (tmp_path / "arguments").read_text().splitlines() == [
        *("-m", "glide_jax.cli.main", "evaluate", f"--output={tmp_path}/run"),
        *words[1:],
    ]


def test_the_output_of_a_host_is_logged(host, tmp_path):
    process = host('echo "$XLA_FLAGS"; echo wrong >&2; exit 2')
    shown, _ = process.communicate(timeout=30)
    log = (tmp_path / "run" / "logs" / f"{HOST}.log").read_text()
    assert "chosen\nwrong\n" in shown
    assert "chosen\nwrong\n" in log
    assert log.splitlines()[-1].endswith("exit code 2")


def test_each_process_of_a_host_has_a_log(host, tmp_path):
    assert host("exit 0", SLURM_PROCID="3").wait(timeout=30) == 0
    assert (tmp_path / "run" / "logs" / f"{HOST}.3.log").exists()


@pytest.mark.parametrize(
    ("codes", "restarts", "last", "calls"),
    [
        ([42, 134, 0], 5, 0, 3),  # stopped, then lost, then done
        ([42, 2], 5, 2, 2),  # a mistake ends it
        ([137, 137, 137], 2, 137, 3),  # no more than two restarts
        ([42], 0, 42, 1),
        ([1], 5, 1, 1),  # an error of ours is no reason to try again
    ],
)
def test_a_run_is_restarted_after_retryable_codes(
    host, tmp_path, codes, restarts, last, calls
):
    (tmp_path / "codes").write_text("\n".join(map(str, codes)) + "\n")
    script = (
        f'code="$(head -n 1 {tmp_path}/codes)"; sed -i 1d {tmp_path}/codes; exit $code'
    )
    process = host(script, f"--restarts={restarts}")
    assert process.wait(timeout=30) == last
    assert len((tmp_path / "calls").read_text().splitlines()) == calls


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_two_starts_ends_the_run(host, tmp_path, number):
    process = host("exit 42", GLIDE_JAX_RESTART_PAUSE_SECS="60")
    for line in process.stdout:
        if "restarting" in line:
            break
    process.send_signal(number)
    assert process.wait(timeout=30) == 42
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_a_signal_before_the_first_start_ends_the_run(tmp_path):
    """As of ssh.sh, while it copies the code."""
    script = (
        f". {launchers.LAUNCH}/restart.sh; trap 'STOP_REQUESTED=yes' TERM; "
        "kill -TERM $$; "
        f"run_with_restarts 3 touch {tmp_path}/started"
    )
    assert subprocess.run(["bash", "-c", script], check=False).returncode == 143
    assert not (tmp_path / "started").exists()


SAVES_ITSELF = (
    "trap 'sleep 0.5; echo saved; exit 42' TERM\n"
    "touch {folder}/ready; while true; do sleep 0.05; done"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_makes_the_run_save_and_exit(host, tmp_path, number):
    process = host(SAVES_ITSELF.format(folder=tmp_path), "--restarts=5")
    wait_for(tmp_path / "ready")
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)  # launchers may repeat theirs
    shown, _ = process.communicate(timeout=30)
    assert process.returncode == 42
    assert "saved" in shown
    assert "saved" in (tmp_path / "run" / "logs" / f"{HOST}.log").read_text()


def test_the_log_is_complete_after_a_signal_to_all_processes(host, tmp_path):
    """As Slurm and a closed terminal send it."""
    process = host(SAVES_ITSELF.format(folder=tmp_path))
    wait_for(tmp_path / "ready")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == 42
    assert "saved" in (tmp_path / "run" / "logs" / f"{HOST}.log").read_text()


def test_setup_runs_first_and_its_failure_ends_the_run(host, tmp_path):
    process = host("exit 0", f"--setup=touch {tmp_path}/mounted && false")
    assert process.wait(timeout=30) == 5
    assert (tmp_path / "mounted").exists()
    assert not (tmp_path / "calls").exists()


def test_each_step_of_the_preparation_is_in_the_workdirs_log(host, tmp_path):
    process = host("exit 0", "--setup=echo mounting; echo careful >&2")
    assert process.wait(timeout=30) == 0
    log = (tmp_path / "run" / "logs" / f"{HOST}.log").read_text()
    steps = [line for line in log.splitlines() if "preparing: " in line]
    assert [line.split("preparing: ")[1] for line in steps] == [
        *("--setup", f"--workdir={tmp_path}/run", "the environment", "glide flags")
    ]
    assert "mounting\ncareful\n" in log
    assert "mounting\ncareful\n" in process.stderr.read()
    assert not list(tmp_path.glob("tmp.*")), "the scratch folder is gone"


@pytest.mark.parametrize(
    ("flags", "environment", "step"),
    [
        # Before there is a workdir, after it, and the workdir itself.
        (["--setup=echo no share >&2; exit 7"], {}, "--setup failed with code 7"),
        ([], {"VIRTUAL_ENV": "/absent"}, "glide flags failed with code"),
        (["--workdir=/dev/null/run"], {}, "--workdir=/dev/null/run failed"),
    ],
)
def test_a_failed_preparation_reports_the_step_and_keeps_the_log(
    host, tmp_path, flags, environment, step
):
    process = host("exit 0", f"--codes={tmp_path}", *flags, **environment)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 5
    line = told.splitlines()[-1]
    assert f"{HOST} could not be prepared: {step}" in line
    log = pathlib.Path(line.rpartition("log: ")[2]).read_text()
    assert "preparation failed: " in log
    assert (tmp_path / f"exit.{HOST}.0").read_text() == "5\n"
    assert not (tmp_path / "calls").exists(), "nothing was trained"


@pytest.mark.parametrize(
    ("scheme", "program", "verb"),
    [("gs", "gcloud", "storage cp"), ("s3", "aws", "s3 cp")],
)
def test_the_log_is_uploaded_if_the_bucket_cannot_be_mounted(
    host, tmp_path, scheme, program, verb
):
    programs = tmp_path / "programs"
    copy = f'echo "$*" >>"{tmp_path}/copies"; cp "$3" "{tmp_path}/copied"'
    launchers.write_program(programs, program, copy)
    launchers.write_program(programs, "mountpoint", "false")
    process = host(
        "exit 0",
        f"--workdir={scheme}://bucket/runs/a",
        "--mount",
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    _, told = process.communicate(timeout=30)
    assert process.returncode == 5
    there = f"{scheme}://bucket/runs/a/logs/{HOST}.log"
    assert f"the log is {there}" in told
    copied = (tmp_path / "copies").read_text()
    assert copied.startswith(f"{verb} ")
    assert copied.rstrip().endswith(there)
    assert "is not installed on" in (tmp_path / "copied").read_text()


def test_training_uses_the_bucket_itself_and_its_log_is_uploaded(host, tmp_path):
    programs = tmp_path / "programs"
    launchers.write_program(programs, "gcloud", f'cp "$3" "{tmp_path}/copied"')
    environment = {
        "TMPDIR": str(tmp_path),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    process = host("echo trained", "--workdir=gs://bucket/runs/a", **environment)
    assert process.wait(timeout=30) == 0
    log = (tmp_path / "copied").read_text()
    assert "trained" in log
    assert "exit code 0" in log
    assert "--workdir=gs://bucket/runs/a" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(("scheme", "program"), [("gs", "gcsfuse"), ("s3", "s3fs")])
def test_a_bucket_is_mounted_once_and_written_as_a_folder(
    host, tmp_path, scheme, program
):
    programs = tmp_path / "programs"
    calls = tmp_path / "mounts"
    launchers.write_program(programs, program, f'echo "$@" >>"{calls}"')
    mounted = f'[ -s "{calls}" ]'
    launchers.write_program(programs, "mountpoint", mounted)
    environment = {
        "TMPDIR": str(tmp_path),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    for _ in range(2):
        there = f"--workdir={scheme}://bucket/runs/a"
        process = host("exit 0", there, "--mount", **environment)
        assert process.wait(timeout=30) == 0
    assert len(calls.read_text().splitlines()) == 1
    (folder,) = tmp_path.glob(f"glide_jax.*/{scheme}/bucket")
    assert (folder / "runs" / "a" / "logs" / f"{HOST}.log").exists()


def test_a_missing_file_system_of_a_bucket_is_an_error(host, tmp_path):
    programs = tmp_path / "programs"
    basics = "bash basename cat date dirname flock hostname id mkdir mktemp tail wc"
    for name in basics.split():
        programs.mkdir(exist_ok=True)
        (programs / name).symlink_to(shutil.which(name))
    launchers.write_program(programs, "mountpoint", "false")
    process = host(
        "exit 0",
        "--workdir=gs://bucket/runs/a",
        "--mount",
        TMPDIR=str(tmp_path),
        PATH=str(programs),
    )
    assert process.wait(timeout=30) == 5
    message = process.stderr.read()
    assert f"gcsfuse is not installed on {HOST}; install it in --setup" in message


def host_runs(tmp_path, action: str, name: str) -> subprocess.CompletedProcess:
    """What launch/host_runs.sh says of the runs of these tests."""
    return subprocess.run(
        [launchers.LAUNCH / "host_runs.sh", action, name],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )


def test_a_run_is_found_by_name_and_stopped(host, tmp_path):
    there = tmp_path / "there"
    script = (
        f"trap 'kill $!; exit 42' TERM; echo step 7; touch {there}; sleep 60 & wait"
    )
    process = host(script, "--name=base64", "--restarts=5")
    wait_for(there)
    shown = host_runs(tmp_path, "status", "base64").stdout
    assert f"base64 on {HOST}, process 0: pid {process.pid}, " in shown
    assert shown.endswith("last line: step 7\n")
    assert host_runs(tmp_path, "is_stopped", "base64").returncode == 1
    for other in ("base6", "base", "base64.0"):
        assert host_runs(tmp_path, "stop", other).stdout == ""
    stopped = host_runs(tmp_path, "stop", "base64")
    assert (
        stopped.stdout == f"base64 on {HOST}, process 0: saves a checkpoint and exits\n"
    )
    assert process.wait(timeout=30) == 42, "and is not started again"
    assert host_runs(tmp_path, "status", "base64").stdout == ""
    assert host_runs(tmp_path, "is_stopped", "base64").returncode == 0
    host_runs(tmp_path, "launch", "base64")
    assert host_runs(tmp_path, "is_stopped", "base64").returncode == 1


def test_another_program_with_the_same_process_id_is_not_stopped(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as other:
        folder = tmp_path / f"glide_jax.{os.getuid()}" / "runs" / "base64"
        folder.mkdir(parents=True)
        (folder / "0.process").write_text(f"{other.pid}\n/log\n")
        assert host_runs(tmp_path, "stop", "base64").stdout == ""
        assert other.poll() is None
        other.terminate()

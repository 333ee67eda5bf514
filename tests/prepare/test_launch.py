"""launch/prepare.sh prints a command that `glide data prepare` accepts."""

from __future__ import annotations

import shlex

import pytest

from glide_jax.cli import data_prepare, main
from glide_jax.errors import UserError
from tests.launch import launchers

COMMON = ("prepare.sh", "--config=experiments/data/prepare.py", "--output=/nfs/out")
IMAGE = "--image=registry.example/glide_jax"
SOURCE = "--config.data.sources=webdataset:/nfs/raw"
COMMANDS = {
    "flink": ("--master=flink:8081", IMAGE, "--jar=job_server.jar"),
    "spark": ("--master=spark://host:7077", IMAGE),
    "dask": ("--master=scheduler:8786", "--workers=4"),
    "dataflow": ("--project=p", "--region=r", "--temp=gs://b/t", IMAGE),
}


@pytest.mark.parametrize("runner", COMMANDS)
def test_a_dry_run_prints_a_command_that_beam_understands(runner):
    command = (*COMMON, SOURCE, f"--runner={runner}", *COMMANDS[runner], "--dry_run")
    result = launchers.run(command)
    assert (result.returncode, result.stderr) == (0, "")
    (line,) = launchers.parts(result.stdout)
    glide, *words = shlex.split(line)
    assert (glide, *words[:2]) == ("glide", "data", "prepare")
    values = main.flags.FlagValues()
    data_prepare.define_flags(values)
    assert main.parse(values, words[1:]) == []
    engine = pytest.importorskip(
        "glide_jax.prepare.engine", reason='needs pip install -e ".[prepare]"'
    )
    if runner in ("dask", "dataflow"):  # need further packages
        with pytest.raises(UserError, match="is not installed"):
            engine.make(values.runner, values.processes, values.runner_options)
        return
    chosen = engine.make(values.runner, values.processes, values.runner_options)
    assert chosen.name == runner


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--runner=storm",), "is not one of flink, spark, dask, dataflow"),
        (("--runner=flink",), "--master, --image are missing"),
        (("--runner=dask", "--master=a:1", IMAGE), "is not a flag of --runner=dask"),
        (("--runner=dask", "--master=a:1", "--workers=0"), "not a whole number"),
        (("--runner=dask", "--master=a:1", "--restarts=3"), "--restarts=3"),
        (("--runner=dask", "--master=a:1", "--output=out"), "not an absolute path"),
    ],
)
def test_mistakes_are_one_line(words, message):
    result = launchers.run((*COMMON, SOURCE, *words, "--dry_run"))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert message in line

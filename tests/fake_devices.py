"""Runs a script on fake CPU devices, in a child process.

The number of devices is fixed when JAX starts, and the suite itself runs on one.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[1]


def run_with_devices(script: str, devices: int = 8, timeout_secs: float = 120) -> str:
    """Returns the script's standard output; an error fails the calling test.

    A script that steps in a loop has to block on each result.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        # The thread pool is sized by this. With one thread a core, devices that wait
        # for each other in a collective starve those that they wait for.
        "NPROC": str(4 * devices),
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_secs,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout

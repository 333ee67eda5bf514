"""Who trains together is read from the environment, by one table."""

from __future__ import annotations

import pytest

from glide_jax.errors import UserError
from glide_jax.parallel import cluster
from glide_jax.parallel.cluster import Cluster

OURS = {
    "GLIDE_JAX_COORDINATOR": "10.0.0.1:12355",
    "GLIDE_JAX_NUM_PROCESSES": "2",
    "GLIDE_JAX_PROCESS_ID": "1",
}
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "gpu[09-10],big",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
GPUS = {**SLURM, "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "n[1-2]"}
GKE = {"TPU_WORKER_HOSTNAMES": "w0,w1,w2,w3", "TPU_WORKER_ID": "2"}
SLICES = {
    **GKE,
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "run-0-0:8080",
}
JOBSET = {
    "JAX_COORDINATOR_ADDRESS": "run-slice-0-0.run",
    "JAX_COORDINATOR_PORT": "6002",
    "NNODES": "2",
    "NODE_RANK": "0",
}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"GLIDE_JAX_NUM_PROCESSES": "1"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"},  # a batch script, not its step
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {**JOBSET, "NNODES": "1"},
    ],
)
def test_a_process_with_no_others_trains_alone(environment):
    assert cluster.find(environment) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (OURS, Cluster("10.0.0.1:12355", 2, 1)),
        (
            {**SLURM, **OURS, "GLIDE_JAX_HOSTS": "a,b"},
            Cluster("10.0.0.1:12355", 2, 1, ("a", "b")),
        ),
        ({"GLIDE_JAX_COORDINATOR": "auto"}, Cluster(None)),
        (SLURM, Cluster("gpu09:61441", 3, 2, ("gpu09", "gpu10", "big"))),
        (
            {**SLURM, "GLIDE_JAX_COORDINATOR": "10.0.0.9:99"},
            Cluster("10.0.0.9:99", 3, 2, ("gpu09", "gpu10", "big")),
        ),
        (GKE, Cluster("w0:8476", 4, 2, ("w0", "w1", "w2", "w3"))),
        (SLICES, Cluster("run-0-0:8476", 8, 6)),
        (JOBSET, Cluster("run-slice-0-0.run:6002", 2, 0)),
    ],
)
def test_the_first_row_that_is_set_decides(environment, expected):
    assert cluster.find(environment) == expected
    timeout = {"GLIDE_JAX_START_TIMEOUT_SECS": "7"}
    assert cluster.find(environment | timeout) == expected._replace(timeout_secs=7)


def test_a_process_has_all_devices_of_its_node_or_shares_them_out():
    assert cluster.find(SLURM).local_devices is None
    third = {**GPUS, "SLURM_PROCID": "6", "SLURM_LOCALID": "2"}
    assert cluster.find(third).local_devices == (2,)
    assert cluster.find(third).hosts == ("n1",) * 4 + ("n2",) * 4
    # srun --gpus-per-task=1 leaves one to see.
    assert cluster.find({**third, "CUDA_VISIBLE_DEVICES": "2"}).local_devices is None
    shared = {**third, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert cluster.find(shared).local_devices == (2,)


def test_processes_go_by_the_names_of_their_hosts():
    assert cluster.find(SLURM).name(1) == "process 1 (gpu10)"
    assert cluster.find(OURS).name(1) == "process 1"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**OURS, "GLIDE_JAX_COORDINATOR": ""}, "not the host:port"),
        ({**OURS, "GLIDE_JAX_COORDINATOR": "10.0.0.1"}, "not the host:port"),
        ({**OURS, "GLIDE_JAX_PROCESS_ID": ""}, "GLIDE_JAX_PROCESS_ID='' is not"),
        ({**OURS, "GLIDE_JAX_PROCESS_ID": "2"}, "none of the 2 that GLIDE_JAX_NUM"),
        ({**OURS, "GLIDE_JAX_NUM_PROCESSES": "two"}, "='two' is not a whole number"),
        (
            {**OURS, "GLIDE_JAX_START_TIMEOUT_SECS": "1m"},
            "GLIDE_JAX_START_TIMEOUT_SECS='1m' is not a whole number",
        ),
    ],
)
def test_a_half_set_environment_is_refused_in_one_line(environment, message):
    with pytest.raises(UserError, match=message) as error:
        cluster.find(environment)
    assert "\n" not in str(error.value)

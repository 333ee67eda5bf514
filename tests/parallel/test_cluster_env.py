"""The cluster of a run is read from the environment."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from glide_jax.errors import UserError
from glide_jax.parallel import cluster_env
from glide_jax.parallel.cluster_env import Cluster

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
def test_without_settings_there_is_no_cluster(environment):
    assert cluster_env.find(environment) is None


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
def test_the_first_row_that_is_set_applies(environment, expected):
    assert cluster_env.find(environment) == expected
    timeout = {"GLIDE_JAX_START_TIMEOUT_SECS": "7"}
    assert cluster_env.find(environment | timeout) == expected._replace(timeout_secs=7)


def test_a_process_has_all_devices_of_its_node_or_one():
    assert cluster_env.find(SLURM).local_devices is None
    third = {**GPUS, "SLURM_PROCID": "6", "SLURM_LOCALID": "2"}
    assert cluster_env.find(third).local_devices == (2,)
    assert cluster_env.find(third).hosts == ("n1",) * 4 + ("n2",) * 4
    # srun --gpus-per-task=1 leaves one to see.
    assert (
        cluster_env.find({**third, "CUDA_VISIBLE_DEVICES": "2"}).local_devices is None
    )
    shared = {**third, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert cluster_env.find(shared).local_devices == (2,)


def test_process_names_contain_hosts():
    assert cluster_env.find(SLURM).name(1) == "process 1 (gpu10)"
    assert cluster_env.find(OURS).name(1) == "process 1"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**OURS, "GLIDE_JAX_COORDINATOR": ""}, "not the host:port"),
        ({**OURS, "GLIDE_JAX_COORDINATOR": "10.0.0.1"}, "not the host:port"),
        ({**OURS, "GLIDE_JAX_PROCESS_ID": ""}, "GLIDE_JAX_PROCESS_ID='' is not"),
        ({**OURS, "GLIDE_JAX_PROCESS_ID": "2"}, "GLIDE_JAX_NUM_PROCESSES=2"),
        ({**OURS, "GLIDE_JAX_NUM_PROCESSES": "two"}, "='two' is not a whole number"),
        (
            {**OURS, "GLIDE_JAX_START_TIMEOUT_SECS": "1m"},
            "GLIDE_JAX_START_TIMEOUT_SECS='1m' is not a whole number",
        ),
    ],
)
def test_an_incomplete_environment_is_an_error(environment, message):
    with pytest.raises(UserError, match=message) as error:
        cluster_env.find(environment)
    assert "\n" not in str(error.value)


NODE_LISTS = {
    "rack[0-1]n[00-01]": "rack0n00 rack0n01 rack1n00 rack1n01",
    "a[1-3,7],b": "a1 a2 a3 a7 b",
    "gpu[08-10,100]": "gpu08 gpu09 gpu10 gpu100",
    "n[9-11],n[009-011]": "n9 n10 n11 n009 n010 n011",
    "[1-2]": "1 2",
    "c-1.example.org,a[0-0]": "c-1.example.org a0",
    "a[1-2]b[1-2]c[1-2]": "a1b1c1 a1b1c2 a2b1c1 a2b1c2 a1b2c1 a1b2c2 a2b2c1 a2b2c2",
    "a[1-2]b[1-2]c[1-2]d[1,3]": "a1b1c1d1 a1b1c1d3 a2b1c1d1 a2b1c1d3 a1b2c1d1 a1b2c1d3"
    " a2b2c1d1 a2b2c1d3 a1b1c2d1 a1b1c2d3 a2b1c2d1 a2b1c2d3 a1b2c2d1 a1b2c2d3 a2b2c2d1"
    " a2b2c2d3",
    " a , b,,c[1-2],": "a b c1 c2",
    "": "",
}


@pytest.mark.parametrize("nodes", NODE_LISTS)
def test_a_list_of_nodes_is_expanded(nodes):
    assert cluster_env.expand_nodes(nodes) == tuple(NODE_LISTS[nodes].split())


def test_letters_may_follow_the_last_bracket():
    assert cluster_env.expand_nodes("n[1-2]-ib,x") == ("n1-ib", "n2-ib", "x")


@pytest.mark.parametrize("nodes", [nodes for nodes in NODE_LISTS if nodes])
def test_expansion_equals_scontrols(nodes, tmp_path):
    if shutil.which("scontrol") is None:
        pytest.skip("scontrol of Slurm is not installed")
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=c\nSlurmctldHost=localhost\n")
    found = subprocess.run(
        ["scontrol", "show", "hostnames", nodes],
        env={"SLURM_CONF": str(conf), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert tuple(found.stdout.split()) == cluster_env.expand_nodes(nodes)


@pytest.mark.parametrize("nodes", ["a[1-2", "a1-2]", "a[2-1]", "a[x]", "a[]", "a[[1]]"])
def test_an_invalid_node_list_is_an_error(nodes):
    environment = {**SLURM, "SLURM_STEP_NODELIST": nodes}
    with pytest.raises(UserError, match="GLIDE_JAX_COORDINATOR") as error:
        cluster_env.find(environment)
    assert "\n" not in str(error.value)


def test_the_first_node_is_the_coordinator():
    nodes = {"SLURM_STEP_NODELIST": "rack[0-1]n[00-01]", "SLURM_STEP_NUM_TASKS": "4"}
    found = cluster_env.find({**SLURM, **nodes})
    assert found.coordinator == "rack0n00:61441"
    assert found.name(3) == "process 3 (rack1n01)"

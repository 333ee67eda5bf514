"""`glide serve`: its refusals, its end by a signal, and a load of bad clients."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent import futures

import numpy as np
import pytest

from glide_jax.cli import main
from glide_jax.cli import serve as serve_verb
from glide_jax.sample import cascade
from tests import local_processes

pytest.importorskip("fastapi", reason="needs the extra [serve]")
httpx = pytest.importorskip("httpx")

from tests.serve import test_http  # noqa: E402
from tests.serve.conftest import TOKEN, serving  # noqa: E402


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["now"], "'now' is not a flag"),
        (
            ["--host=0.0.0.0"],
            "--host=0.0.0.0 is reached by other machines; give --token",
        ),
        (["--host=::"], "--host=:: is reached by other machines"),
        (["--token=a", "--token_file=b"], "--token_file replaces --token"),
        (["--token="], "--token is empty"),
        (["--token_file=absent.txt"], "absent.txt cannot be read"),
        (["--host=192.0.2.1", "--token=a"], "cannot listen at 192.0.2.1:8000"),
        (["--port=65536"], "--port=65536 is not a port"),
        (["--max_queue=4"], "--max_queue=4 cannot hold a request of --max_pictures=10"),
        (["--clip=c"], "--clip=c needs --base"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(flags, line, capsys):
    assert main.run(["serve", *flags]) == 2
    said = capsys.readouterr()
    assert line in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_without_the_extra_the_line_names_it(monkeypatch, capsys):
    monkeypatch.setattr(serve_verb, "_NEEDED", ("fastapi", "no_such_module"))
    assert main.run(["serve"]) == 2
    assert capsys.readouterr().err == (
        "glide serve: the server needs no_such_module, not installed here; "
        'pip install -e ".[serve]"\n'
    )


@pytest.mark.slow
@pytest.mark.parametrize("drain_s", [60, 0])
def test_a_signal_ends_the_server_when_its_requests_are_answered(bundles, drain_s):
    command = [sys.executable, "-m", "glide_jax.cli.main", "serve", "--port=0"]
    command += [f"--base={bundles['base']}", f"--token={TOKEN}", f"--drain_s={drain_s}"]
    command += ["--noexact"] if drain_s else []
    command += ["--max_delay_ms=60000"]  # so that the request waits for the signal
    server = subprocess.Popen(
        command,
        env=local_processes.environment(
            PYTHONPATH=os.pathsep.join(filter(None, sys.path))
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = re.search(r"http://\S+", server.stdout.readline())[0]
        http = httpx.Client(base_url=url, headers=test_http.HEADERS, timeout=60)
        with futures.ThreadPoolExecutor(1) as pool:
            fields = {"prompt": test_http.PROMPT, "seed": 1}
            asked = pool.submit(http.post, test_http.GENERATIONS, json=fields)
            while "glide_queue_pictures 1.0" not in http.get("/metrics").text:
                time.sleep(0.02)
            server.send_signal(signal.SIGTERM)
            answer = asked.result(60)
        _, said = server.communicate(timeout=60)
    finally:
        server.kill()
    assert server.returncode == 42, said
    if drain_s:
        assert answer.status_code == 200
        assert "stopped by SIGTERM with every request answered" in said
        glide = cascade.Glide.load(bundles["base"])
        alone = glide.sample(test_http.PROMPT, seed=1)  # not in a full batch either
        text = answer.json()["data"][0]["b64_json"]
        np.testing.assert_array_equal(test_http.decode(text), alone.images[0])
    else:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert "requests given up that took longer than --drain_s=0" in said


@pytest.mark.slow
def test_a_benchmark_starts_a_server_for_its_time(
    bundles, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    output = tmp_path / "rows.jsonl"
    flags = [f"--base={bundles['base']}", "--batch_size=2", f"--output={output}"]
    flags += ["--clients=2", "--requests=4", "--respacing=2"]
    assert main.run(["benchmark", "serve", *flags]) == 0
    row = json.loads(output.read_text())
    assert (row["batch_size"], row["options"]) == (2, {"respacing": "2"})
    assert row["machine"]["platform"] == "cpu"
    assert main.run(["benchmark", "serve", "--base=absent"]) == 2
    assert "the server did not start" in capfd.readouterr().err


CLIENTS, REQUESTS = 8, 200


@pytest.mark.slow
def test_bad_clients_get_the_promised_errors_and_good_ones_their_pictures(models):
    """200 requests of 8 clients: cancelled, oversized, malformed, and good ones."""
    glide = cascade.Glide(models["base_inpaint"], models["upsampler_inpaint"])
    photo, hole = test_http.png(test_http.PHOTO), test_http.png(test_http.HOLE)
    counts, lock = Counter(), threading.Lock()
    queue = {"max_queue": 6, "batch_size": 4, "max_delay_s": 0.01}
    access = {"max_upload_bytes": 50_000}
    with serving(glide, batching=queue, access=access) as running:

        def ask(client: int) -> None:
            chance = random.Random(client)
            http = httpx.Client(
                base_url=running.url, headers=test_http.HEADERS, timeout=300
            )
            for number in range(REQUESTS // CLIENTS):
                kind = chance.choice(list(promised))
                seed = 1000 * client + number
                try:
                    answer = send(http, kind, seed, chance)
                    status = answer.status_code
                except httpx.TimeoutException:
                    status = "left"
                with lock:
                    counts[kind, status] += 1
                assert status in promised[kind], (kind, status)
                if kind == "good" and status == 200:
                    with lock:
                        drawn[seed] = answer.json()["data"][0]["b64_json"]

        def send(http, kind, seed, chance):
            fields = {"prompt": test_http.PROMPT, "seed": seed}
            json_kind = {"Content-Type": "application/json"}
            if kind in ("good", "several"):
                fields["n"] = 1 if kind == "good" else chance.randint(2, 5)
                return http.post(test_http.GENERATIONS, json=fields)
            if kind == "leaves":
                wait_s = chance.uniform(0.001, 0.3)
                return http.post(test_http.GENERATIONS, json=fields, timeout=wait_s)
            if kind == "oversized":
                return http.post(test_http.GENERATIONS, content=b"x" * 60_000)
            if kind == "malformed":
                body = bytes(chance.randrange(256) for _ in range(200))
                return http.post(test_http.GENERATIONS, content=body, headers=json_kind)
            image = photo if kind == "edit" else photo[: chance.randrange(len(photo))]
            mask = hole
            if kind == "damaged":
                at = chance.randrange(len(hole))
                mask = hole[:at] + b"\xff" + hole[at:]
            files = {"image": image, "mask": mask}
            return http.post(
                test_http.EDITS, data={**fields, "seed": str(seed)}, files=files
            )

        drawn: dict[int, str] = {}
        promised = {
            "good": {200, 429},
            "several": {200, 429},
            "leaves": {200, 429, "left"},
            "edit": {200, 429},
            "oversized": {413},
            "malformed": {400},
            "damaged": {422},
        }
        # The first requests compile; all at once they would only fill the queue.
        http = httpx.Client(
            base_url=running.url, headers=test_http.HEADERS, timeout=300
        )
        for kind in ("good", "edit"):
            assert send(http, kind, 0, random.Random(0)).status_code == 200
        with futures.ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(ask, client) for client in range(CLIENTS)]:
                done.result(600)
        assert http.get("/healthz").status_code == 200
        page = http.get("/metrics").text
    assert sum(counts.values()) == REQUESTS
    assert 'status="500"' not in page
    assert counts["leaves", "left"] > 0
    assert len(drawn) >= 5
    for seed, text in list(drawn.items())[:5]:
        four = glide.sample([test_http.PROMPT] * 4, seed=seed, batch_size=4).images
        np.testing.assert_array_equal(test_http.decode(text), four[0])

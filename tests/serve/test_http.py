"""Requests over HTTP by the client that users have, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [serve]")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from glide_jax.cli import main  # noqa: E402
from glide_jax.serve import answers, reading  # noqa: E402
from tests import fake_devices  # noqa: E402
from tests.serve.conftest import BATCH, TOKEN, serving  # noqa: E402

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
PROMPT = "a big r circle"
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


@pytest.fixture(scope="module")
def server(inpainter):
    limits = {"pictures": 10, "prompt_chars": 50, "pixels": 40 * 40, "programs": 2}
    with serving(
        inpainter,
        batching={"max_delay_s": 0.2, "max_queue": 8},
        limits=limits,
        access={"max_upload_bytes": 20_000},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(
        api_key=TOKEN, base_url=f"{server.url}/v1", max_retries=0
    ) as client:
        yield client


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def decode(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def pictures(answer) -> list[np.ndarray]:
    return [decode(one.b64_json) for one in answer.data]


PHOTO = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
# All but a hole in the middle is opaque.
HOLE = np.dstack([PHOTO, np.full((12, 20), 255, np.uint8)])
HOLE[4:8, 6:12, 3] = 0


def test_generations_are_the_pictures_of_glide_sample(server, client):
    def ask(seed: int, count: int):
        extra = {"seed": seed, "guidance_scale": 2.5}
        return client.images.generate(
            *(), prompt=PROMPT, n=count, size="8x8", extra_body=extra
        )

    # Requests of several clients share batches.
    asked = [(1, 1), (2, 1), (3, 2), (4, 4)]
    with futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: ask(*one), asked))
    for (seed, count), answer in zip(asked, answers, strict=True):
        # In full batches, as the server draws them.
        expected = server.glide.sample(
            *(PROMPT,),
            num_images=max(count, BATCH),
            seed=seed,
            guidance_scale=2.5,
            batch_size=BATCH,
        ).images
        assert len(answer.data) == count
        np.testing.assert_array_equal(pictures(answer), expected[:count])
        numbers = [(one.seed, one.index) for one in answer.data]
        assert numbers == [(seed, i) for i in range(count)]
    page = httpx.get(f"{server.url}/metrics", headers=HEADERS).text
    ok = f'glide_requests_total{{path="{GENERATIONS}",status="200"}} 4.0'
    assert ok in page
    batches = float(re.search(r"^glide_batch_pictures_count (.+)$", page, re.M)[1])
    assert batches <= 5  # of 8 pictures; the single ones may have met
    assert 'glide_stage_seconds_count{stage="base"}' in page
    # Without a seed there is another picture each time.
    drawn = [client.images.generate(prompt=PROMPT).data[0] for _ in range(2)]
    assert drawn[0].seed != drawn[1].seed


def test_edits_repaint_what_is_transparent(server, client):
    def edit(image, **more):
        extra = {"seed": 5, "feather_px": 1}
        return client.images.edit(
            image=("photo.png", image), prompt=PROMPT, n=2, extra_body=extra, **more
        )

    expected = server.glide.inpaint(
        PHOTO,
        (HOLE[..., 3] > 0).astype(np.float32),
        PROMPT,
        num_images=2,
        seed=5,
        feather_px=1,
        batch_size=BATCH,
    ).images
    by_mask = edit(png(PHOTO), mask=("mask.png", png(HOLE)))
    np.testing.assert_array_equal(pictures(by_mask), expected)
    np.testing.assert_array_equal(pictures(by_mask)[0][:2], PHOTO[:2])
    assert len(edit(png(HOLE)).data) == 2  # its own transparency


def test_the_example_of_the_page_runs(server, tmp_path, monkeypatch):
    page = (fake_devices.ROOT / "docs" / "serving.md").read_text()
    (code,) = re.findall(r"^```py\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", TOKEN)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(png(PHOTO))
    (tmp_path / "mask.png").write_bytes(png(HOLE))
    names: dict = {}
    exec(compile(code, "serving.md", "exec"), names)
    assert Image.open("7_1.png").size == (8, 8)
    assert pictures(names["repainted"])[0].shape == PHOTO.shape


def test_a_benchmark_compares_many_clients_with_one(server, tmp_path, capsys):
    token = tmp_path / "token.txt"
    token.write_text(f"{TOKEN}\n")
    flags = [f"--token_file={token}", "--clients=4", "--requests=4"]
    command = ["benchmark", "serve", f"--url={server.url}", *flags]
    assert main.run([*command, f"--prompt={PROMPT}"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["clients"], row["requests"]) == (4, 4)
    rates = [row[n]["pictures_per_second"] for n in ("together", "one_at_a_time")]
    assert row["speedup"] == pytest.approx(rates[0] / rates[1], rel=1e-3)
    assert main.run([*command, f"--prompt={'x' * 51}"]) == 2
    said = capsys.readouterr().err
    assert "answers 422: prompt has 51 characters" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "give either --base=BUNDLE or --url="),
        (["--url=here"], "--url=here is not the address of a server"),
        (["--url=http://127.0.0.1:9"], "cannot be asked"),
        (["--url=http://x", "--batch_size=2"], "--batch_size is for a server that is"),
        (["--base=x", "--token_file=y"], "--token_file is for a running server"),
    ],
)
def test_a_benchmark_that_has_no_server_says_why_in_one_line(flags, line, capsys):
    assert main.run(["benchmark", "serve", *flags]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_the_models_are_listed_and_the_server_is_healthy(server, client):
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "glide_jax"
    answer = httpx.get(f"{server.url}/healthz")  # without a token
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


REFUSED = [
    ({"prompt": None}, 422, "prompt is missing"),
    ({"prompt": "x" * 51}, 422, "51 characters; give at most 50"),
    ({"prompt": "\ud800"}, 422, "not valid Unicode"),
    ({"n": 0}, 422, "n=0 asks for 0 pictures; give 1 to 10"),
    ({"n": "some"}, 422, "n='some' is not a number"),
    ({"n": 9}, 429, "the queue is full"),
    ({"size": "1024x1024"}, 422, "give 8x8 or auto"),
    ({"model": "dall-e-3"}, 404, "does not exist; this server has small"),
    ({"response_format": "url"}, 422, "give b64_json"),
    ({"image": "/etc/passwd"}, 422, "'image' is not a field"),
    ({"batch_size": 64}, 422, "'batch_size' is not a field"),
    ({"guidance_scale": -1}, 422, "guidance_scale=-1.0 is out of range"),
    ({"sampler": "magic"}, 422, "sampler='magic' is not one of"),
    ({"candidates": 2}, 422, "candidates=2 are compared by a noised CLIP"),
    ({"strength": 0.5}, 422, "strength is for an edit"),
    ({"feather_px": 1}, 422, "feather_px is for an edit with a mask"),
    ({"respacing": "2"}, 422, "compiles no more"),
]


@pytest.mark.parametrize(("fields", "status", "line"), REFUSED)
def test_a_request_that_cannot_be_drawn_is_refused(server, fields, status, line):
    # The two programs that the server compiles are known from here on.
    server.service.reader.read({"prompt": PROMPT})
    server.service.reader.read({"prompt": PROMPT}, png(HOLE))
    content = json.dumps({"prompt": PROMPT, **fields})
    check_refused(
        httpx.post(
            f"{server.url}{GENERATIONS}",
            content=content,
            headers={**HEADERS, "Content-Type": "application/json"},
        ),
        status,
        line,
    )


def check_refused(answer, status: int, line: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert line in error["message"]
    assert "\n" not in error["message"]
    assert ("Retry-After" in answer.headers) == (status == 429)


def test_a_body_that_cannot_be_read_is_refused(server):
    post = httpx.Client(base_url=server.url, headers=HEADERS).post
    json_kind = {"Content-Type": "application/json"}
    form = {"prompt": PROMPT}
    noise = np.random.default_rng(1).integers(0, 256, (60, 60, 3), np.uint8)

    def edit(image, **more):
        return post(EDITS, data=form, files={"image": image, **more})

    for answer, status, line in (
        (post(GENERATIONS, content=b"{", headers=json_kind), 400, "not JSON"),
        (post(GENERATIONS, content=b"[" * 9999, headers=json_kind), 400, "not JSON"),
        (post(GENERATIONS, content=b"[]", headers=json_kind), 400, "not a JSON object"),
        (post(GENERATIONS, data=form), 415, "application/json"),
        (post(EDITS, json=form), 415, "multipart/form-data"),
        (post(EDITS, files=[("prompt", (None, PROMPT))]), 422, "image is missing"),
        (edit(b"no picture"), 422, "image cannot be used: broken image"),
        (edit(png(noise)), 413, "give at most 1600 pixels"),
        (edit(png(PHOTO), mask=png(PHOTO)), 422, "no transparent pixel"),
        (edit(png(PHOTO), mask=png(HOLE[:5])), 422, "the mask is 20x5"),
        (edit(png(PHOTO), other=b"x"), 422, "'other' is not a file"),
        (post(GENERATIONS, content=b" " * 20_001), 413, "at most 0.02 MB"),
        # Without a length, in chunks.
        (
            post(GENERATIONS, content=iter([b" " * 9_000] * 3), headers=json_kind),
            413,
            "at most 0.02 MB",
        ),
        (post("/v1/images/variations"), 404, "Not Found"),
    ):
        check_refused(answer, status, line)


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}])
def test_without_the_token_nothing_but_the_health_is_told(server, header):
    for path in ("/v1/models", "/metrics", "/nothing"):
        answer = httpx.get(f"{server.url}{path}", headers=header)
        check_refused(answer, 401, "the token is missing or wrong")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_servers_values_give_way_to_those_of_a_request(inpainter):
    defaults = {"guidance_scale": 2.0, "negative_prompt": "r", "sampler": "ddim"}
    own = reading.Reader(inpainter, model_name="x", defaults={**defaults, "eta": 0.5})
    for given, kept in (
        ({}, {**defaults, "eta": 0.5}),
        ({"guidance_mode": "none"}, {"sampler": "ddim", "eta": 0.5}),
        ({"sampler": "plms"}, {"guidance_scale": 2.0, "negative_prompt": "r"}),
    ):
        asked = own.read({"prompt": PROMPT, **given})
        assert dict(asked.group.options) == {**kept, **given}


def test_a_request_that_is_refused_takes_no_program(inpainter):
    own = reading.Reader(inpainter, model_name="x", limits=reading.Limits(programs=1))
    soft = {"prompt": PROMPT, "feather_px": 900}
    with pytest.raises(answers.RequestError, match="feather_px=900"):
        own.read(soft, png(HOLE))
    own.read({"prompt": PROMPT})
    with pytest.raises(answers.RequestError, match="compiles no more"):
        own.read({"prompt": PROMPT}, png(HOLE))


def test_pages_of_other_sites_cannot_use_a_server_without_a_token(inpainter):
    with serving(inpainter, access={"token": None}) as running:
        port = running.url.rpartition(":")[2]
        for header, status in (
            ({}, 200),
            ({"Host": f"localhost:{port}", "Origin": running.url}, 200),
            ({"Host": f"rebound.example:{port}"}, 403),
            ({"Origin": "https://other.example"}, 403),
            ({"Origin": "null"}, 403),
        ):
            answer = httpx.get(f"{running.url}/v1/models", headers=header)
            assert answer.status_code == status
        assert "use http://127.0.0.1" in answer.json()["error"]["message"]


def test_a_deadline_and_a_client_that_leaves_empty_the_queue(inpainter):
    fields = {"prompt": PROMPT}
    waiting = {"max_delay_s": 60}  # for a second picture, which does not come
    with serving(inpainter, batching=waiting, access={"deadline_s": 0.5}) as running:
        http = httpx.Client(base_url=running.url, headers=HEADERS)
        with pytest.raises(httpx.ReadTimeout):
            http.post(GENERATIONS, json=fields, timeout=0.1)
        answer = http.post(GENERATIONS, json=fields)
        check_refused(answer, 504, "not drawn within 0.5 s")
        wanted = ('status="499"} 1.0', 'status="504"} 1.0', "glide_queue_pictures 0.0")
        end = time.monotonic() + 10
        while not all(line in (page := http.get("/metrics").text) for line in wanted):
            assert time.monotonic() < end, page
            time.sleep(0.05)
        assert "glide_batch_pictures_count 0.0" in page  # nothing was drawn


def test_a_server_that_stops_refuses_and_answers_what_it_has(inpainter):
    with (
        serving(inpainter, batching={"max_delay_s": 60}) as running,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        http = httpx.Client(base_url=running.url, headers=HEADERS, timeout=60)
        asked = pool.submit(http.post, GENERATIONS, json={"prompt": PROMPT})
        end = time.monotonic() + 10
        while "glide_queue_pictures 1.0" not in http.get("/metrics").text:
            assert time.monotonic() < end
        assert running.service.queue.drain(60)
        assert asked.result(60).status_code == 200
        answer = http.post(GENERATIONS, json={"prompt": PROMPT})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert http.get("/healthz").status_code == 503

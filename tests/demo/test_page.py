"""The page in a real Chromium, with the small models of tests/sample."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from glide_jax.cli import main
from glide_jax.sample import image_io
from tests import local_processes

pytestmark = pytest.mark.slow

pytest.importorskip("gradio", reason='needs pip install -e ".[demo]"')
sync_api = pytest.importorskip(
    "playwright.sync_api", reason='needs pip install -e ".[dev]"'
)

PROMPT = "a big r circle"
# A step of these models takes a millisecond; compilation on a busy core, a minute.
WAIT_MS = 300_000
MODES = "#draw-guidance_mode"


@pytest.fixture(scope="module")
def served(bundles, guided, tmp_path_factory):
    """The address and the folder of a page; without an upsampler."""
    folder = tmp_path_factory.mktemp("page")
    command = [sys.executable, "-m", "glide_jax.cli.main", "demo", "--port=0"]
    command += [f"--base={guided}", f"--clip={bundles['clip']}"]
    paths = os.pathsep.join(filter(None, sys.path))
    demo = subprocess.Popen(
        [*command, f"--output={folder}"],
        env=local_processes.environment(PYTHONPATH=paths),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None
        url = re.search(r"http://\S+", demo.stdout.readline())
        assert url is not None
        yield url[0], folder
    finally:
        demo.send_signal(signal.SIGTERM)
        code = demo.wait(60)
    assert code == 42


def _open(playwright):
    """A browser: Playwright's own, or Debian's."""
    own = pathlib.Path(playwright.chromium.executable_path)
    path = str(own) if own.exists() else shutil.which("chromium")
    if path is None:
        pytest.skip(
            "Chromium is missing: `playwright install chromium`, or apt-get install "
            "chromium"
        )
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def page(served):
    """The page, open in a window; it asks nothing of any other address."""
    elsewhere = []

    def note(request):
        if not re.match(rf"{served[0]}/|data:|blob:", request.url):
            elsewhere.append(request.url)

    with sync_api.sync_playwright() as playwright:
        browser = _open(playwright)
        try:
            window = browser.new_page(
                viewport={"width": 1300, "height": 1200}, locale="en-US"
            )
            window.on("request", note)
            window.set_default_timeout(WAIT_MS)
            window.goto(served[0])
            window.wait_for_selector("#draw-prompt")
            yield window
        finally:
            browser.close()
    assert elsewhere == []


def show(page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()


def write(page, field: str, text: str) -> None:
    box = page.locator(f"#{field} textarea, #{field} input").first
    box.fill(text)
    box.blur()


def wait_for_pictures(page, tab: str) -> None:
    """Waits for the end of what a tab draws."""
    page.wait_for_function(
        f"""() => {{
          const status = document.querySelector("#{tab}-status")?.innerText ?? "";
          return / pictures? in |Cancelled/.test(status)
            || document.querySelector("#{tab}-status .refusal");
        }}"""
    )


def said(page, tab: str) -> str:
    return page.inner_text(f"#{tab}-status")


def shot(page, name: str) -> None:
    """Keeps a picture of the page where a person asked for it."""
    if folder := os.environ.get("GLIDE_JAX_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def newest(folder: pathlib.Path) -> pathlib.Path:
    return max(path for path in folder.iterdir() if re.fullmatch(r"\d{4}", path.name))


def test_a_prompt_becomes_a_picture_with_its_command(page, served, monkeypatch):
    write(page, "draw-prompt", PROMPT)
    write(page, "draw-seed", "7")
    page.click("#draw-go")
    wait_for_pictures(page, "draw")
    assert "4 pictures in" in said(page, "draw")
    page.wait_for_selector("#draw-pictures img")
    command = " ".join(page.inner_text("#draw-command .cm-content").split("\\\n"))
    shot(page, "draw")
    folder = newest(served[1])
    verb, *flags = shlex.split(command)[1:]
    assert f"--prompt={PROMPT}" in flags
    monkeypatch.chdir(served[1].parent)
    assert main.run([verb, *flags]) == 0
    for name in ("000000.png", "000003.png"):
        again = image_io.read_image(f"{folder}_again/{name}")
        np.testing.assert_array_equal(again, image_io.read_image(folder / name))


def test_an_empty_prompt_and_a_bad_seed_are_refused_in_one_line(page):
    for prompt, seed, line in (
        ("", "", "the prompt is empty"),
        (PROMPT, "seven", "seed 'seven' is not a whole number"),
    ):
        write(page, "draw-prompt", prompt)
        write(page, "draw-seed", seed)
        page.click("#draw-go")
        page.get_by_text(line).wait_for()


def test_options_without_an_effect_are_not_shown(page):
    negative, guidance = map(page.locator, ("#draw-negative_prompt", MODES))
    assert negative.is_visible()
    guidance.get_by_label("none", exact=True).check()
    negative.wait_for(state="hidden")
    guidance.get_by_label("classifier-free", exact=True).check()
    negative.wait_for()


def test_a_long_picture_is_cancelled(page, served):
    write(page, "draw-prompt", PROMPT)
    write(page, "draw-seed", "")
    write(page, "draw-count", "16")
    write(page, "draw-respacing", "1000")
    page.click("#draw-go")
    page.get_by_text(re.compile(r"base model, step \d+ of 1000")).first.wait_for()
    page.wait_for_selector("#draw-status img.preview")  # the prediction
    shot(page, "preview")
    page.click("#draw-cancel")
    page.get_by_text("Cancelled.").wait_for()
    assert newest(served[1]).name == "0001"  # nothing was kept


def stroke(page, editor: str, start: tuple[float, float], end: tuple[float, float]):
    """Paints a line with the mouse; places are shares of the canvas."""
    brush = page.locator(f"#{editor} button[aria-label*='brush' i]").first
    brush.click()
    box = page.locator(f"#{editor} canvas").first.bounding_box()

    def place(share):
        side = min(box["width"], box["height"])
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        return [m + (s - 0.5) * side * 0.7 for m, s in zip(middle, share, strict=True)]

    page.mouse.move(*place(start))
    page.mouse.down()
    page.mouse.move(*place(end), steps=8)
    page.mouse.up()


def test_a_painted_part_is_filled_and_the_result_is_painted_again(page, served):
    page.click("#draw-to-fill")
    page.wait_for_selector("#fill-editor canvas")
    page.get_by_text("nothing is painted").wait_for()  # the picture is in the editor
    stroke(page, "fill-editor", (0.3, 0.45), (0.7, 0.45))
    page.get_by_text("of the picture is repainted, the rest is kept").wait_for()
    write(page, "fill-prompt", PROMPT)
    shot(page, "painted")
    page.click("#fill-go")
    wait_for_pictures(page, "fill")
    page.wait_for_selector("#fill-pictures img")
    shot(page, "filled")
    folder = newest(served[1])
    original = image_io.read_image(folder / "image.png")
    mask = image_io.read_image(folder / "mask.png")[..., 0] > 127
    assert 0.01 < mask.mean() < 0.6
    filled = image_io.read_image(folder / "000000.png")
    np.testing.assert_array_equal(filled[~mask], original[~mask])
    assert (filled[mask] != original[mask]).any()
    # Iterative building: the result is the next picture.
    page.click("#fill-to-fill")
    page.get_by_text("nothing is painted").wait_for()
    stroke(page, "fill-editor", (0.55, 0.2), (0.55, 0.4))
    page.get_by_text("of the picture is repainted, the rest is kept").wait_for()
    page.click("#fill-go")
    page.wait_for_selector("#fill-status progress, #fill-status p")
    wait_for_next(served[1], folder)
    again = image_io.read_image(newest(served[1]) / "image.png")
    np.testing.assert_array_equal(again, filled)


def wait_for_next(folder: pathlib.Path, before: pathlib.Path) -> None:
    """Waits until a later ticket is written."""
    end = time.monotonic() + WAIT_MS / 1000
    while newest(folder) == before or not (newest(folder) / "samples.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_sketch_becomes_a_picture(page, served):
    show(page, "Edit")
    page.wait_for_selector("#edit-editor canvas")
    page.wait_for_timeout(1500)
    stroke(page, "edit-editor", (0.3, 0.3), (0.7, 0.7))
    page.wait_for_timeout(1000)
    write(page, "edit-prompt", PROMPT)
    page.click("#edit-go")
    wait_for_pictures(page, "edit")
    page.wait_for_selector("#edit-pictures img")
    shot(page, "edited")
    sketch = image_io.read_image(newest(served[1]) / "image.png")
    assert sketch.shape == (8, 8, 3)
    assert (sketch == 255).all(-1).mean() > 0.5
    assert (sketch[2:6, 2:6] != 255).any()


def test_scales_are_compared_in_a_strip(page, served):
    show(page, "Compare")
    write(page, "compare-prompt", PROMPT)
    write(page, "compare-scales", "1, 2.5")
    page.click("#compare-go")
    wait_for_pictures(page, "compare")
    page.wait_for_selector("#compare-strip img")
    shot(page, "compared")
    text = page.inner_text("#compare-command .cm-content")
    assert text.count("glide sample") == 2
    seeds = set(re.findall(r"--seed=(\d+)", text))
    assert len(seeds) == 1
    assert (newest(served[1]) / "strip.png").exists()


def test_votes_change_the_ratings(page, served):
    show(page, "Vote")
    page.get_by_text("No votes yet.").wait_for()
    write(page, "vote-prompts", PROMPT)
    page.click("#vote-next")
    page.get_by_text("change one, so that there is something to compare").wait_for()
    page.locator("#vote-A-guidance_mode").get_by_label("none", exact=True).check()
    for number, answer in enumerate(["left", "neither"]):
        page.click("#vote-next")
        page.wait_for_selector(f"#vote-go-{answer}:not([disabled])")
        shown = page.inner_text("#vote-text")
        assert PROMPT in shown
        body = page.inner_text("body")
        assert "cfg 3" not in body.partition("Ratings")[0]  # blinded
        if number == 1:
            shot(page, "vote")
        page.click(f"#vote-go-{answer}")
        count = "1 vote," if number == 0 else "2 votes,"
        page.get_by_text(count).wait_for()
        assert "left: " in page.inner_text("#vote-said")
    assert "Elo [95% interval]" in page.inner_text("#vote-ratings")
    shot(page, "voted")
    text = (served[1] / "votes.csv").read_text()
    assert len(text.splitlines()) == 3


def test_the_history_has_settings_and_a_download(page, served, tmp_path):
    show(page, "History")
    page.wait_for_selector("#history-pictures img")
    assert "glide" in page.inner_text("#history-command .cm-content")
    with page.expect_download() as download:
        page.click("#history-download")
    target = tmp_path / "item.zip"
    download.value.save_as(target)
    shutil.unpack_archive(target, tmp_path)
    assert list(tmp_path.glob("*/**/000000.png"))
    shot(page, "history")

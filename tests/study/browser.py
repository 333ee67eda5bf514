"""A real Chromium, driven by WebDriver's HTTP (W3C recommendation, 5 June 2018)."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

BACKSPACE = "\ue003"
_START_SECS = 30


def is_here() -> bool:
    """Whether Chromium and its driver are installed."""
    return all(map(shutil.which, ("chromium", "chromedriver")))


class Browser:
    """One window."""

    def __init__(self, url: str, downloads: pathlib.Path):
        options = {
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu"],
            "prefs": {"download.default_directory": str(downloads)},
        }
        wanted = {"alwaysMatch": {"goog:chromeOptions": options}}
        session = _ask("POST", f"{url}/session", {"capabilities": wanted})
        self._url = f"{url}/session/{session['sessionId']}"

    def open(self, page: pathlib.Path) -> None:
        """Shows a file, and waits until it has loaded."""
        self._do("url", {"url": page.as_uri()})

    def reload(self) -> None:
        """As a rater might."""
        self._do("refresh", {})

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        action = {"type": "key", "id": "keyboard", "actions": keys}
        self._do("actions", {"actions": [action]})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns in the page."""
        return self._do("execute/sync", {"script": script, "args": arguments})

    def wait_for(self, script: str, secs: float = 10) -> None:
        """Waits until a script returns something true."""
        end = time.monotonic() + secs
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def close(self) -> None:
        """Ends the browser."""
        _ask("DELETE", self._url, None)

    def _do(self, what: str, body: dict[str, Any]) -> Any:
        return _ask("POST", f"{self._url}/{what}", body)


@contextlib.contextmanager
def started(downloads: pathlib.Path) -> Iterator[Browser]:
    """A browser that saves what it downloads into a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url)
        browser = Browser(url, downloads)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait()


def _wait_until_ready(url: str) -> None:
    end = time.monotonic() + _START_SECS
    while True:
        try:
            if _ask("GET", f"{url}/status", None)["ready"]:
                return
        except OSError:
            assert time.monotonic() < end, "chromedriver does not start"
            time.sleep(0.05)


def _ask(method: str, url: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json"}, method=method
    )
    # A proxy of the environment is no way to this machine's own port.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)["value"]

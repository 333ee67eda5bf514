"""Servers of s3:// and gs:// on this machine, and faults between them and a client."""

from __future__ import annotations

import collections
import contextlib
import http.client
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

BUCKET = "bucket"
_ANSWERS = {"throttle": (503, "SlowDown"), "deny": (403, "AccessDenied")}


class Servers(NamedTuple):
    """Two servers behind a proxy each.

    Attributes:
      environment: variables with which a client finds them and may use them.
      faults: what the proxies do to coming requests.
    """

    environment: dict[str, str]
    faults: Faults


class Faults:
    """Faults of the next requests; thread-safe.

    Attributes:
      seen: the requests so far, as "METHOD path".
      sent: the bytes of the answers so far, without those that were cut.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: collections.deque[tuple[str, str]] = collections.deque()
        self.seen: list[str] = []
        self.sent = 0

    def add(self, kind: str, count: int = 1, method: str = "") -> None:
        """Makes the next requests fail.

        Args:
          kind: "throttle" and "deny" (answers of the store: 503 and 403), or "cut" (the
            connection ends in the middle of the answer).
          count: number of requests.
          method: only requests of this method, e.g. "GET"; "" for all.
        """
        with self._lock:
            self._due.extend([(kind, method)] * count)

    def count(self, num_bytes: int) -> None:
        """Adds the bytes of an answer."""
        with self._lock:
            self.sent += num_bytes

    def clear(self) -> None:
        """Removes the faults that have not come up."""
        with self._lock:
            self._due.clear()

    def take(self, method: str, path: str) -> str:
        """The fault of a request that has come; "" if it has none."""
        with self._lock:
            self.seen.append(f"{method} {path}")
            for index, (kind, wanted) in enumerate(self._due):
                if wanted in ("", method):
                    del self._due[index]
                    return kind
        return ""


@contextlib.contextmanager
def run() -> Iterator[Servers]:
    """Runs both servers with an empty bucket in each."""
    from gcp_storage_emulator import server as gcs
    from moto.server import ThreadedMotoServer

    faults = Faults()
    with contextlib.ExitStack() as stack:
        s3 = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        s3.start()
        stack.callback(s3.stop)
        port = s3._server.server_address[1]
        _request(port, "PUT", f"/{BUCKET}")
        # It takes no port 0.
        free = _free_port()
        gs = gcs.create_server("127.0.0.1", free, in_memory=True, default_bucket=BUCKET)
        gs.start()
        stack.callback(gs.stop)
        fronts = [
            stack.enter_context(_proxy(behind, faults)) for behind in (port, free)
        ]
        yield Servers(
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{fronts[0]}",
                "AWS_ACCESS_KEY_ID": "name",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{fronts[1]}",
            },
            faults,
        )


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _request(port: int, method: str, path: str) -> int:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request(method, path)
    status = client.getresponse().status
    client.close()
    return status


@contextlib.contextmanager
def _proxy(behind: int, faults: Faults) -> Iterator[int]:
    """Forwards requests to a port, with faults; yields its own port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def forward(self) -> None:
            fault = faults.take(self.command, self.path)
            body = self._body()
            if fault in ("throttle", "deny"):
                status, code = _ANSWERS[fault]
                self._answer(status, {}, f"<Error><Code>{code}</Code></Error>".encode())
                return
            if _must_be_new(self.path) and self._exists(body):
                self._answer(412, {}, b'{"error": {"code": 412, "message": "exists"}}')
                return
            if self._is_replaced():
                self._answer(404, {}, b"Not Found")
                return
            if self.headers.get("Content-Type", "").startswith("multipart/related"):
                body = _with_crlf(body)
            status, headers, content = self._ask(self.command, self.path, body)
            if fault == "cut":
                self.send_response(status)
                self.send_header("Content-Length", str(len(content) + 1000))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            self._answer(status, headers, content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _ask(
            self, method: str, path: str, body: bytes
        ) -> tuple[int, dict[str, str], bytes]:
            client = http.client.HTTPConnection("127.0.0.1", behind, timeout=60)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("transfer-encoding", "content-length", "expect")
            }
            client.request(method, path, body, headers)
            answer = client.getresponse()
            content = answer.read()
            client.close()
            return answer.status, dict(answer.getheaders()), content

        def _exists(self, body: bytes) -> bool:
            """Whether the object of a conditional upload exists.

            The emulator of gs:// takes such uploads and does not look at the condition.
            """
            found = re.search(rb'"name": *"([^"]+)"', body)
            assert found, body[:200]
            name = urllib.parse.quote(found[1].decode(), safe="")
            status, _, _ = self._ask("GET", f"/storage/v1/b/{BUCKET}/o/{name}", b"")
            return status == 200

        def _is_replaced(self) -> bool:
            """Whether another generation of an object of gs:// is asked for.

            The emulator sends the newest one.
            """
            url = urllib.parse.urlsplit(self.path)
            wanted = urllib.parse.parse_qs(url.query).get("generation")
            if self.command != "GET" or wanted is None:
                return False
            place = url.path.removeprefix("/download")
            status, _, content = self._ask("GET", place, b"")
            return status == 200 and json.loads(content)["generation"] != wanted[0]

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in (
                    "transfer-encoding",
                    "content-length",
                    "connection",
                    "server",
                    "date",
                ):
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(content)))
            self.send_header(
                "Content-Length",
                length if self.command == "HEAD" else str(len(content)),
            )
            self.end_headers()
            if self.command != "HEAD":
                faults.count(len(content))
                self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _with_crlf(body: bytes) -> bytes:
    """Returns a multipart upload with CR LF instead of LF before its last boundary.

    gcsfs writes LF. The emulator takes that and a CR before it for the end of a line,
    and loses the last byte of a content that ends in CR.
    """
    content, boundary, rest = body.rpartition(b"\n--==0==--")
    return content + b"\r" + boundary + rest if boundary else body


def _must_be_new(path: str) -> bool:
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
    return query.get("ifGenerationMatch") == ["0"] and "upload_id" not in query

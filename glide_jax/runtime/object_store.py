"""Objects of Google Cloud Storage (gs://) and of S3 (s3://), through fsspec.

Credentials and addresses come from where the vendors' own tools look: the environment
(AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS,
STORAGE_EMULATOR_HOST), their files in the home folder, or the machine's role.

A store keeps these guarantees: an object appears whole or not at all; a reader sees the
newest object at once; `write(..., must_be_new=True)` succeeds for one of several
writers. It has no folders, no renames, and no appending.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import os
import pathlib
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from glide_jax.errors import UserError

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# Scheme -> (package that fsspec uses, where its credentials come from).
SCHEMES = {
    "gs": (
        "gcsfs",
        "run `gcloud auth application-default login`, or set "
        "GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "s3": ("s3fs", "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
}
EXTRA = "stores"
# Requests at the same time. One object of a checkpoint may have gigabytes.
THREADS = 8
# How long a request is repeated while the store is unreachable or refuses for load.
RETRY_SECS = 120.0
# The same for the first request, before any work starts.
OPEN_SECS = 20.0
_FIRST_WAIT_SECS, _LONGEST_WAIT_SECS = 0.5, 20.0
# Larger files are sent in parts and never held in memory.
_WHOLE_BYTES = 16 << 20


class MissingError(Exception):
    """The object does not exist; internal."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An object in a listing.

    Attributes:
      size: bytes.
      version: changes whenever the object does.
      modified: seconds since 1970 by the clock of the store.
    """

    size: int
    version: str
    modified: float


def is_url(text: str) -> bool:
    """Whether the text names a place in an object store."""
    return text.partition("://")[0] in SCHEMES and "://" in text


class ObjectStore:
    """The objects below one URL, by their names relative to it; "" is its own object.

    Every method repeats requests that fail for a reason that passes (throttling, a
    connection that is cut, an internal error), for at most RETRY_SECS.

    Attributes:
      url: without a slash at its end.
    """

    def __init__(self, url: str, name: str) -> None:
        """Opens the URL and checks that its bucket can be listed.

        Args:
          url: gs://BUCKET/PATH or s3://BUCKET/PATH; the path may be empty.
          name: where the user gave it, e.g. "--workdir".

        Raises:
          UserError: the package is not installed, the credentials are missing or
            refused, or the bucket does not exist.
        """
        scheme, _, path = url.partition("://")
        self._root = path.rstrip("/")
        self.url, self.name = f"{scheme}://{self._root}", name
        self._bucket = path.partition("/")[0]
        if not self._bucket:
            raise UserError(
                f"{name}={url} names no bucket; write {scheme}://BUCKET/..."
            )
        package, self._credentials = SCHEMES[scheme]
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{name}={url} needs {package}, not installed here; pip install "
                f'-e ".[{EXTRA}]"'
            )
        self._files, self._errors = _file_system(scheme), _errors(scheme)
        try:
            try:
                # Credentials may be limited to the place.
                self._try(lambda: self._files.ls(self._root, refresh=True), OPEN_SECS)
            except MissingError:  # nothing is there yet
                self._try(lambda: self._files.ls(self._bucket, refresh=True), OPEN_SECS)
        except MissingError as error:
            raise self._refusal("its bucket does not exist", "check it") from error

    def list(self, under: str = "") -> dict[str, Entry]:
        """All objects at or below a name, e.g. "" or "checkpoints/1000"."""
        top = self._path(under)

        def find() -> dict[str, Any]:
            # Some stores also list the object at a name that others extend.
            try:
                return self._files.find(top, detail=True, refresh=True)
            except FileNotFoundError:
                return {}

        start = len(self._root) + 1
        return {
            name[start:]: _entry(info)
            for name, info in sorted(self._try(find).items())
            if info["type"] == "file" and not name.endswith("/")
            if name == top or name.startswith(f"{top}/")
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of an object in [start, stop).

        Raises:
          MissingError: there is none.
        """
        path = self._path(name)
        return self._try(
            lambda: self._files.cat_file(path, start=start or None, end=stop)
        )

    def write(self, name: str, content: bytes, *, must_be_new: bool = False) -> bool:
        """Writes an object; False if it must be new and exists already."""
        mode = "create" if must_be_new else "overwrite"
        try:
            self._try(
                lambda: self._files.pipe_file(self._path(name), content, mode=mode)
            )
        except FileExistsError:
            return False
        return True

    def upload(self, source: pathlib.Path, name: str) -> None:
        """Writes a file as an object.

        Raises:
          FileNotFoundError: the file is gone.
        """
        if source.stat().st_size <= _WHOLE_BYTES:
            self.write(name, source.read_bytes())
            return
        self._try(lambda: self._files.put_file(str(source), self._path(name)))

    def download(self, name: str, target: pathlib.Path) -> None:
        """Writes an object to a file, which need not exist; its folder must.

        Raises:
          MissingError: there is none.
        """
        self._try(lambda: self._files.get_file(self._path(name), str(target)))

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects; those that are gone already do not matter."""
        for name in names:
            with contextlib.suppress(MissingError):
                self._try(lambda name=name: self._files.rm_file(self._path(name)))

    def for_each(
        self, action: Callable[[str], _Result], names: Iterable[str]
    ) -> Iterator[_Result]:
        """Calls `action` with every name, several at the same time; in their order."""
        with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
            yield from threads.map(action, names)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, request: Callable[[], _Result], secs: float = 0.0) -> _Result:
        """Makes a request, and repeats it while it fails for a reason that passes."""
        deadline = time.monotonic() + (secs or RETRY_SECS)
        wait = _FIRST_WAIT_SECS
        while True:
            try:
                return request()
            except FileExistsError:
                raise
            except FileNotFoundError as error:
                raise MissingError(str(error)) from error
            except self._errors as error:
                reason = describe(error)
                if _is_refused(error):
                    raise self._refusal(
                        f"the store refuses access ({reason})", self._credentials
                    ) from error
                if not is_passing(error) or time.monotonic() + wait > deadline:
                    raise self._refusal(
                        f"the store cannot be used ({reason})",
                        "run the same command later to continue",
                    ) from error
                _log.warning(
                    "%s: %s; the request is repeated in %.1f s", self.url, reason, wait
                )
            time.sleep(wait * random.uniform(0.8, 1.2))
            wait = min(2 * wait, _LONGEST_WAIT_SECS)

    def _refusal(self, rule: str, remedy: str) -> StoreError:
        return StoreError(f"{self.name}={self.url}: {rule}; {remedy}")


class StoreError(UserError):
    """A store, or a part of it, that cannot be used."""


def _file_system(scheme: str) -> Any:
    """The file system of fsspec, without a cache of listings."""
    for noisy in ("gcsfs", "s3fs", "aiobotocore", "botocore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        return importlib.import_module("s3fs").S3FileSystem(**options)
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        options["token"] = "anon"
    # The class of gcsfs that fsspec takes asks through gRPC for the kind of a bucket,
    # which proxies and emulators leave unanswered for a minute.
    return importlib.import_module("gcsfs.core").GCSFileSystem(**options)


def _errors(scheme: str) -> tuple[type[Exception], ...]:
    """What the packages of a scheme raise, beside FileNotFoundError."""
    aiohttp = importlib.import_module("aiohttp")
    common = (OSError, ValueError, RuntimeError, aiohttp.ClientError)
    if scheme == "s3":
        botocore = importlib.import_module("botocore.exceptions")
        return (*common, botocore.BotoCoreError, botocore.ClientError)
    auth = importlib.import_module("google.auth.exceptions")
    return (
        *common,
        importlib.import_module("gcsfs.retry").HttpError,
        auth.GoogleAuthError,
    )


def _entry(info: dict[str, Any]) -> Entry:
    version = info.get("generation") or info.get("ETag") or info.get("etag") or ""
    modified = info.get("LastModified") or info.get("mtime") or info.get("updated")
    return Entry(int(info["size"]), str(version).strip('"'), _seconds(modified))


def _seconds(moment: Any) -> float:
    if isinstance(moment, str):
        moment = _parse_time(moment)
    return moment.timestamp() if moment is not None else 0.0


def _parse_time(text: str) -> Any:
    import datetime

    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def describe(error: BaseException) -> str:
    """One line for an error of fsspec."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


_REFUSED = re.compile(
    r"forbidden|access ?denied|unauthori[sz]ed|invalid ?access ?key|signature|"
    r"credential|permission|\b40[13]\b",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"slow ?down|throttl|too many|\brate\b|internal ?error|unavailable|timed? ?out|"
    r"reset|closed|connect|refused|incomplete|payload|\b(408|429|5\d\d)\b",
    re.IGNORECASE,
)


def _text(error: BaseException) -> str:
    """Type and message, without addresses, whose numbers are not codes."""
    return f"{type(error).__name__} {re.sub(r'[^ ]*/[^ ]*', '', str(error))}"


def _is_refused(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or (
        bool(_REFUSED.search(_text(error))) and not isinstance(error, ConnectionError)
    )


def is_passing(error: BaseException) -> bool:
    """Whether a repeated request may succeed."""
    return isinstance(
        error, ConnectionError | TimeoutError | asyncio.TimeoutError
    ) or bool(_PASSING.search(_text(error)))

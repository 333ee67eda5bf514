"""Local folders that mirror places in object stores; `mirror` keeps one of them.

A path that a user gives as gs://BUCKET/PATH or s3://BUCKET/PATH becomes a folder below
the user's cache (`paths.local_text` calls `local`), so that all other code reads and
writes files. At its first use in a process the objects are fetched; while a command
runs (`session`), process 0 of a run writes new and changed files back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator

from glide_jax.errors import UserError
from glide_jax.runtime.mirror import Mirror

_log = logging.getLogger(__name__)
# Flags of places that are written to. Other places are only read.
_WRITTEN = ("--output", "--root", "--workdir")
# Between two searches for changed files.
PUSH_SECS = 5.0


@dataclasses.dataclass(frozen=True)
class Separate:
    """The mirror of one host of a run on several, each of which has its own.

    A checkpoint has files of every host. Each uploads its own; see
    `checkpoint.async_save`.

    Attributes:
      mirror: of this host.
      is_leader: whether this process is the first of its host.
    """

    mirror: Mirror
    is_leader: bool


_mirrors: dict[str, Mirror] = {}
_separate: dict[pathlib.Path, Separate] = {}
_opening = threading.RLock()


def local(url: str, name: str, cache: pathlib.Path) -> pathlib.Path:
    """The folder, or file, of this machine that mirrors a URL; fetched if it is new.

    Args:
      url: gs://BUCKET/PATH or s3://BUCKET/PATH.
      name: where the user gave it, for errors.
      cache: the folder of all mirrors.

    Raises:
      UserError: a store that cannot be used; see `ObjectStore`.
    """
    url = url if url.endswith("://") else url.rstrip("/")
    with _opening:
        for known, mirror in _mirrors.items():
            if name in _WRITTEN and not mirror.is_written:
                continue
            if url == known or url.startswith(f"{known}/"):
                return mirror.folder / url[len(known) + 1 :]
        scheme, _, path = url.partition("://")
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise UserError(
                f"{name}={url} has an empty part, or one with dots only; write "
                f"{scheme}://BUCKET/PATH"
            )
        folder = cache / scheme / path
        mirror = Mirror(url, name, folder)
        mirror.pull()
        mirror.is_written = name in _WRITTEN
        _mirrors[mirror.url] = mirror
        return folder


def complete(path: pathlib.Path, names: Iterable[str] | None = None) -> None:
    """Fetches the files of a checkpoint in a mirror; see `Mirror.complete`."""
    for mirror in _of(path):
        mirror.complete(path, names)


def write(path: pathlib.Path) -> None:
    """Lets a command write to the place of a path that was given to be read."""
    for mirror in _of(path):
        mirror.is_written = True


def claim(
    path: pathlib.Path,
    wait_secs: float = 0.0,
    check_stop: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Becomes the only writer of the place of a path, if it is in a mirror.

    Returns a check that raises UserError if another process has become the writer.
    """
    found = _of(path)
    for mirror in found:
        mirror.claim(wait_secs, check_stop)

    def check() -> None:
        for mirror in found:
            mirror.check_writer()

    return check


def is_in_store(path: pathlib.Path) -> bool:
    """Whether a path is in a mirror."""
    return bool(_of(path))


def separate(path: pathlib.Path, *, is_leader: bool) -> None:
    """Notes that every host of this run has a mirror of its own of this path."""
    (mirror,) = _of(path)
    _separate[path.absolute()] = Separate(mirror, is_leader)


def separated(path: pathlib.Path) -> Separate | None:
    """What `separate` noted of the path or a folder that holds it."""
    path = path.absolute()
    found = [one for top, one in _separate.items() if path.is_relative_to(top)]
    return found[0] if found else None


def _of(path: pathlib.Path) -> list[Mirror]:
    path = path.absolute()
    return [one for one in _mirrors.values() if path.is_relative_to(one.folder)]


@contextlib.contextmanager
def session(is_first: Callable[[], bool]) -> Iterator[None]:
    """Uploads what changes in the mirrors during the block, and the rest at its end.

    Args:
      is_first: whether this process uploads; one of those that share the folders does.

    Raises:
      UserError: at the end, files could not be uploaded. If the block raises, that is
        only logged.
    """
    is_over, has_ended = threading.Event(), False
    thread = threading.Thread(target=_push_all, args=(is_first, is_over), daemon=True)
    thread.start()
    try:
        yield
        has_ended = True
    finally:
        is_over.set()
        thread.join()
        try:
            _close_all(is_first)
        except UserError as error:
            if has_ended:
                raise
            _log.error("%s", error)


def _push_all(is_first: Callable[[], bool], is_over: threading.Event) -> None:
    while not is_over.wait(PUSH_SECS):
        for mirror in list(_mirrors.values()):
            if mirror.is_written and is_first():
                try:
                    mirror.push()
                except (UserError, OSError) as error:
                    _log.warning("nothing is uploaded for now: %s", error)


def _close_all(is_first: Callable[[], bool]) -> None:
    with _opening:
        mirrors = list(_mirrors.values())
        _mirrors.clear()
        _separate.clear()
    for mirror in mirrors:
        if mirror.is_written and is_first():
            try:
                mirror.close()
            except (UserError, OSError) as error:
                raise UserError(
                    f"{error}; files that are not uploaded are in {mirror.folder}"
                ) from error

"""One folder, or file, that mirrors a place in an object store.

What a disk guarantees, a mirror keeps as far as a store can:

- A file is uploaded when it is complete: scratch files and unfinished folders are not.
- A manifest (`mirror_rules.MARKS`) is uploaded after all files of its folder, and
  deleted before them, so that a reader sees a complete checkpoint or bundle, or none.
- One process writes to a place at a time; see `store_lock`.
- After a kill the next command on the same machine uploads what was not, unless another
  process has written to the place since; then its objects count.

The files of a checkpoint are fetched when the checkpoint is read (`complete`), so that
a run with many of them starts soon. Its manifest is always there.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from glide_jax.errors import UserError
from glide_jax.runtime import (
    files,
    locks,
    mirror_rules,
    mirror_state,
    object_store,
    store_lock,
    wording,
)

_log = logging.getLogger(__name__)


class Mirror:
    """A folder, or a file, and the objects at a URL."""

    def __init__(self, url: str, name: str, folder: pathlib.Path) -> None:
        """Opens the store; nothing is fetched.

        Args:
          url: of the place.
          name: where the user gave it, e.g. "--workdir".
          folder: the local one, or the path of the file if the URL is an object.

        Raises:
          UserError: a store that cannot be used; see `ObjectStore`.
        """
        self.folder = folder
        self._store = object_store.ObjectStore(url, name)
        self.url = self._store.url
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._state_file = folder.with_name(f".{folder.name}.mirror.json")
        self._known: dict[str, mirror_state.Known] = {}
        self._number = 0  # of the last writer that this machine was
        self._threads = threading.RLock()
        self._writer: store_lock.StoreLock | None = None
        self.is_written = False  # whether a command may change the place

    def pull(self) -> None:
        """Makes the files equal to the objects, except those changed here since."""
        with self._threads, self._alone():
            self._load()
            last = store_lock.newest(self._store)
            if self._is_written_here(last):
                # Its files are newer than the objects, or equal.
                _log.info(
                    "%s is written by %s; its files are used", self.url, last.holder
                )
                return
            is_ours = last.number == self._number
            remote = self._objects()
            local = mirror_state.scan(self.folder)
            missing, changed, lost = [], [], []
            for name in remote.keys() | self._known.keys() | local.keys():
                known = self._known.get(name)
                entry, sign = remote.get(name), local.get(name)
                is_same = (entry and entry.version) == (known and known.version)
                is_changed = sign is not None and sign != (known and known.sign)
                if is_changed and is_same and is_ours:
                    changed.append(name)
                elif is_same and sign == (known and known.sign):
                    pass
                elif entry is not None:
                    lost += [name] if is_changed and not is_same else []
                    missing.append(name)
                else:
                    lost += [name] if is_changed else []
                    self._forget(name)
            fetched = self._fetch(missing, remote)
            self._number = last.number
            self._save()
        self._report(fetched, changed, lost)

    def _is_written_here(self, last: store_lock.Writer) -> bool:
        """Whether another command writes to the place from this very folder."""
        holder = last.holder
        if holder is None or last.mirror != str(self.folder):
            return False
        return holder.is_visible() and holder.is_running()

    def complete(self, path: pathlib.Path, names: Iterable[str] | None = None) -> None:
        """Fetches the files below a path that were left out; some names only, or all.

        Raises:
          UserError: the store cannot be used. An object that has vanished is logged,
            and its file stays missing.
        """
        under = path.relative_to(self.folder).as_posix()
        wanted = None if names is None else {f"{under}/{name}" for name in names}
        with self._threads, self._alone():
            self._load()
            lazy = [
                name
                for name, known in self._known.items()
                if known.sign is None and name.startswith(f"{under}/")
                if wanted is None or name in wanted
            ]
            if lazy:
                begin = time.monotonic()
                size = self._download(lazy)
                self._save()
                _log.info(
                    "%s/%s: %s, %s, fetched in %.1f s",
                    *(self.url, under, wording.counted(len(lazy), "file")),
                    *(wording.size(size), time.monotonic() - begin),
                )

    def claim(
        self, wait_secs: float = 0.0, check_stop: Callable[[], None] = lambda: None
    ) -> None:
        """Becomes the only writer of the place; see `StoreLock.acquire`."""
        if self._writer is None:
            writer = store_lock.StoreLock(self._store, self.folder)
            writer.acquire(wait_secs, check_stop)
            self._writer, self._number = writer, writer.number
            with self._threads:
                self._save()

    def check_writer(self) -> None:
        """Raises UserError if another process has become the writer."""
        if self._writer is not None:
            self._writer.check()

    def push(self) -> int:
        """Uploads new and changed files and deletes objects of deleted ones.

        Returns the number of files that changed meanwhile; the next call takes them.

        Raises:
          UserError: the store cannot be used, or another process is the writer.
        """
        with self._threads:
            with self._alone():  # another process may have fetched a checkpoint
                self._load()
                local = mirror_state.scan(self.folder)
            known = self._known
            changed = [
                name
                for name, sign in local.items()
                if name not in known or known[name].sign != sign
                if not self._is_merged_here(name)
            ]
            gone = [name for name in known if self._is_gone(name, local)]
            if not changed and not gone:
                return 0
            self.claim()
            assert self._writer is not None
            marks = [name for name in changed if mirror_rules.is_mark(name)]
            others = [name for name in changed if not mirror_rules.is_mark(name)]
            # A reader must not see the old manifest with new files.
            stale = [
                mark
                for mark in marks
                if mark in known and mirror_rules.any_below(mark, others)
            ]
            self._writer.check(now=True)
            self._store.delete(stale)
            late = set(self._upload(others, local))
            self._writer.check(now=True)
            ready = [mark for mark in marks if not mirror_rules.any_below(mark, late)]
            late |= set(marks) - set(ready) | set(self._upload(ready, local))
            # A checkpoint may be deleted while it is uploaded.
            gone += [name for name in late if not self._path(name).exists()]
            self._store.delete(
                sorted(gone, key=lambda name: not mirror_rules.is_mark(name))
            )
            versions = self._objects()
            with self._alone():
                self._load()
                for name in gone:
                    self._known.pop(name, None)
                for name in (set(changed) - late) & versions.keys():
                    self._known[name] = mirror_state.Known(
                        versions[name].version, local[name]
                    )
                self._save()
            return len(late)

    def send(self, folder: pathlib.Path, names: Iterable[str], under: str) -> None:
        """Uploads files of a folder to a place below the URL; see `Separate`.

        Raises:
          UserError: the store cannot be used.
        """

        def upload(name: str) -> None:
            self._store.upload(folder / name, f"{under}/{name}")

        for _ in self._store.for_each(upload, names):
            pass

    def commit(
        self, folder: pathlib.Path, under: str, publish: Callable[[], None]
    ) -> None:
        """Uploads the manifest of a folder that `send` sent, and publishes the folder.

        Raises:
          UserError: the store cannot be used, or another process is the writer.
        """
        with self._threads:
            self.claim()
            assert self._writer is not None
            self._writer.check(now=True)
            self.send(folder, [mirror_rules.MARKS[0]], under)
            self.adopt(under, publish)

    def discard(self, under: str) -> None:
        """Deletes what an earlier or failed `send` left below a name."""
        self._store.delete(
            sorted(self._store.list(under), key=lambda n: not mirror_rules.is_mark(n))
        )

    def adopt(self, under: str, publish: Callable[[], None]) -> None:
        """Publishes a folder whose objects are in the store already.

        Its own files count as uploaded, and those of other hosts as not fetched.
        """
        with self._threads:
            publish()
            for name, entry in self._store.list(under).items():
                path = self._path(name)
                sign = mirror_state.sign_of(path) if path.is_file() else None
                self._known[name] = mirror_state.Known(entry.version, sign)
            mark = f"{under}/{mirror_rules.MARKS[0]}"
            if self._known[mark].sign is None:
                self._download([mark])
            self._save()

    def close(self) -> None:
        """Uploads what is left, and ends as the writer.

        Raises:
          UserError: files could not be uploaded; they stay in the folder.
        """
        pushes = (self.push() for _ in range(10))  # another program may still write
        while next(pushes, 0):
            time.sleep(0.2)
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _objects(self) -> dict[str, object_store.Entry]:
        """The objects, without those of the lock."""
        found = self._store.list()
        for name in found:
            if name and any(part in ("", ".", "..") for part in name.split("/")):
                raise UserError(f"{self.url}/{name} is not a file name; delete it")
        return {
            n: entry for n, entry in found.items() if not mirror_rules.HIDDEN.search(n)
        }

    def _is_gone(self, name: str, local: Mapping[str, mirror_state.Sign]) -> bool:
        """Whether a known file was deleted here.

        One that was never fetched is deleted with the manifest beside it.
        """
        if name in local:
            return False
        if self._known[name].sign is not None:
            return True
        (step,) = mirror_rules.STEP.finditer(name)
        return f"{step.group()}{mirror_rules.MARKS[0]}" not in local

    def _is_merged_here(self, name: str) -> bool:
        """Whether a reader added the file to a checkpoint that is in the store.

        See `checkpoint.item_files.merge_parts`.
        """
        step = mirror_rules.STEP.match(name)
        if step is None or name in self._known:
            return False
        mark = self._known.get(f"{step.group()}{mirror_rules.MARKS[0]}")
        path = self._path(f"{step.group()}{mirror_rules.MARKS[0]}")
        return (
            mark is not None
            and path.is_file()
            and mark.sign == mirror_state.sign_of(path)
        )

    def _fetch(
        self, names: Iterable[str], remote: Mapping[str, object_store.Entry]
    ) -> tuple[int, int]:
        """Downloads objects, or notes those that are fetched later; (count, bytes)."""
        eager = []
        for name in names:
            self._known[name] = mirror_state.Known(remote[name].version, None)
            if mirror_rules.LAZY.match(name):
                self._path(name).unlink(missing_ok=True)
            else:
                eager.append(name)
        return len(eager), self._download(eager)

    def _download(self, names: list[str]) -> int:
        """Downloads objects; returns the number of bytes."""

        def fetch(name: str) -> int:
            path = self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with files.scratch(path, is_durable=False) as draft:
                    self._store.download(name, draft)
            except object_store.MissingError:
                _log.warning("%s/%s has vanished from the store", self.url, name)
                self._known.pop(name, None)
                return 0
            sign = mirror_state.sign_of(path)
            self._known[name] = mirror_state.Known(self._known[name].version, sign)
            return sign[0]

        return sum(self._store.for_each(fetch, sorted(names)))

    def _upload(
        self, names: list[str], local: Mapping[str, mirror_state.Sign]
    ) -> list[str]:
        """Uploads files; returns those that changed meanwhile."""

        def send(name: str) -> str | None:
            path = self._path(name)
            try:
                self._store.upload(path, name)
                return None if mirror_state.sign_of(path) == local[name] else name
            except (FileNotFoundError, object_store.MissingError):
                return name

        return [name for name in self._store.for_each(send, names) if name is not None]

    def _forget(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        self._known.pop(name, None)

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / name

    def _report(
        self, fetched: tuple[int, int], changed: list[str], lost: list[str]
    ) -> None:
        count, size = wording.counted(fetched[0], "file"), wording.size(fetched[1])
        _log.info("%s is %s (%s, %s, fetched)", self.url, self.folder, count, size)
        if changed:
            _log.warning(
                "%s: %s that an earlier command did not upload; they are uploaded now",
                *(self.url, wording.counted(len(changed), "file")),
            )
        if lost:
            _log.warning(
                "%s: %s of an earlier command on this machine dropped (%s first): "
                "another process has written to the place since",
                *(self.url, wording.counted(len(lost), "file"), min(lost)),
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits until no other process of this machine fetches the same files."""
        with self._state_file.with_suffix(".lock").open("a") as file:
            while not locks.try_lock(file):
                time.sleep(0.1)
            yield

    def _load(self) -> None:
        self._number, self._known = mirror_state.load(self._state_file, self.url)

    def _save(self) -> None:
        mirror_state.save(self._state_file, self.url, self._number, self._known)

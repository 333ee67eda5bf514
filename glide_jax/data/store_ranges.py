"""Reads byte ranges of objects of known versions, ahead of their use.

`ahead` starts the requests of ranges that are read soon, several at the same time, and
`read` then takes each. Neighbouring ranges are one request. Records are drawn in a
random order, so only ranges that were announced and not yet taken are kept in memory.

Threads and memory belong to the process: all sources share them. After a fork, and in a
process that unpickles a source, connections are opened at the first read, since the
event loop of fsspec does not survive a fork.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import importlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import NamedTuple

from glide_jax.runtime import object_store

# Requests of one process at the same time. A request takes tens of milliseconds,
# whatever its size, so 32 of them are several hundred records a second (ours).
REQUESTS = 32
# Largest total size of the blocks that are requested or held and not yet taken. 256 MiB
# are 2,500 records of 100 KiB (ours).
AHEAD_BYTES = 256 << 20
# Ranges with less than this between them are one request, up to a size. In the time
# that a request waits for its answer, a connection carries more (ours).
GAP_BYTES = 64 << 10
BLOCK_BYTES = 8 << 20
# A connection that no longer answers is given up; the request is then repeated.
REQUEST_SECS = 60.0


class ChangedError(Exception):
    """The object has another version now; internal."""


class Range(NamedTuple):
    """The bytes [start, stop) of one version of an object.

    Attributes:
      bucket: "gs://BUCKET" or "s3://BUCKET".
      name: of the object in the bucket.
      version: as `object_store.Entry.version`.
    """

    bucket: str
    name: str
    version: str
    start: int
    stop: int


def read(wanted: Range) -> bytes:
    """Returns the bytes of a range, which may have been requested by `ahead`.

    Raises:
      MissingError: the object does not exist.
      ChangedError: it has another version.
      StoreError: the store cannot be used, after requests were repeated for
        `object_store.RETRY_SECS`.
    """
    if wanted.start == wanted.stop:
        return b""
    taken = _process.take(wanted)
    return _process.fetch(wanted) if taken is None else taken


@contextlib.contextmanager
def ahead(wanted: Iterable[Range]) -> Iterator[None]:
    """Requests ranges in this order, as memory allows; at its end it drops the rest."""
    process = _process
    announced = process.announce(wanted)
    try:
        yield
    finally:
        process.drop(announced)


def list_objects(bucket: str, under: str) -> dict[str, object_store.Entry]:
    """All objects at or below a name; see `object_store.ObjectStore.list`.

    Raises:
      StoreError: the bucket does not exist, or cannot be used.
    """
    return _process.store(bucket).list(under)


def read_object(bucket: str, name: str) -> bytes:
    """The whole newest version of an object; see `object_store.ObjectStore.read`."""
    return _process.store(bucket).read(name)


class _Store(object_store.ObjectStore):
    """A bucket of which ranges of versions are read."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "webdataset")
        self._is_s3 = url.startswith("s3:")
        self._sync = importlib.import_module("fsspec.asyn").sync
        kinds = [
            importlib.import_module("aiohttp").ClientError,
            importlib.import_module("requests").exceptions.RequestException,
        ]
        if self._is_s3:
            kinds.append(importlib.import_module("botocore").exceptions.HTTPClientError)
            # By default, S3 has ten connections.
            self._files = importlib.import_module("s3fs").S3FileSystem(
                use_listings_cache=False,
                config_kwargs={"max_pool_connections": REQUESTS},
            )
        self._cuts = tuple(kinds)

    def read_range(self, wanted: Range) -> bytes:
        """Returns the bytes of a range; raises as `read`."""
        try:
            content = self._try(functools.partial(self._request, wanted))
        except object_store.MissingError:
            # Google's store does not find a generation that was replaced.
            if wanted.name in self.list(wanted.name):
                raise ChangedError(wanted.name) from None
            raise
        if content is None:
            raise ChangedError(wanted.name)
        return content

    def _request(self, wanted: Range) -> bytes | None:
        """Makes one request; None if the object has another version."""
        get = self._get_s3 if self._is_s3 else self._get_gs
        try:
            content = self._sync(self._files.loop, get, wanted, timeout=REQUEST_SECS)
        except self._cuts as error:
            raise ConnectionError(object_store.describe(error)) from error
        except OSError as error:
            if _is_other_version(error):
                return None
            raise
        if len(content) < wanted.stop - wanted.start:
            raise ConnectionError(f"{len(content)} bytes of {wanted.name} came")
        return content

    async def _get_gs(self, wanted: Range) -> bytes:
        return await self._files._cat_file(
            self._path(wanted.name),
            start=wanted.start,
            end=wanted.stop,
            generation=wanted.version,
        )

    async def _get_s3(self, wanted: Range) -> bytes:
        # `cat_file` has no condition.
        answer = await self._files._call_s3(
            "get_object",
            Bucket=self._bucket,
            Key=wanted.name,
            Range=f"bytes={wanted.start}-{wanted.stop - 1}",
            IfMatch=f'"{wanted.version}"',
        )
        try:
            return await answer["Body"].read()
        finally:
            answer["Body"].close()


def _is_other_version(error: OSError) -> bool:
    """Whether S3 answers that the condition on the version does not hold."""
    answer = getattr(error.__cause__, "response", None) or {}
    code = str(answer.get("Error", {}).get("Code"))
    return error.errno == errno.EINVAL and code in ("PreconditionFailed", "412")


class _Block:
    """A request for neighbouring ranges.

    Attributes:
      whole: the range that is requested.
      left: the number of its ranges that are not taken.
      content: its bytes; None until it is requested.
    """

    def __init__(self, first: Range) -> None:
        self.whole, self.left = first, 1
        self.content: futures.Future[bytes] | None = None
        self.is_held = False

    @property
    def size(self) -> int:
        return self.whole.stop - self.whole.start


class _Process:
    """What all sources of one process share."""

    def __init__(self) -> None:
        # Reentrant: a request that has ended reports it in the thread that waits.
        self._lock = threading.RLock()
        self._stores: dict[str, _Store] = {}
        self._threads = futures.ThreadPoolExecutor(
            REQUESTS, thread_name_prefix="store-ranges"
        )
        self._queue: collections.deque[_Block] = collections.deque()
        self._blocks: dict[Range, _Block] = {}
        self._running, self._free = 0, AHEAD_BYTES

    def store(self, bucket: str) -> _Store:
        """The opened bucket."""
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = _Store(bucket)
            return self._stores[bucket]

    def fetch(self, wanted: Range) -> bytes:
        """Requests a range."""
        return self.store(wanted.bucket).read_range(wanted)

    def announce(self, wanted: Iterable[Range]) -> dict[Range, _Block]:
        """Queues ranges that are not queued yet; returns them with their blocks."""
        with self._lock:
            new = [one for one in dict.fromkeys(wanted) if one not in self._blocks]
            added = _merge([one for one in new if one.start < one.stop])
            self._blocks.update(added)
            self._queue.extend(dict.fromkeys(added.values()))
            self._start_next()
        return added

    def take(self, wanted: Range) -> bytes | None:
        """Returns the bytes of an announced range; None if it has to be requested."""
        with self._lock:
            block = self._blocks.pop(wanted, None)
            if block is None:
                return None
            is_queued = block.content is None
            if is_queued and block.size <= self._free and self._start(block):
                self._queue.remove(block)
            content = block.content
            if content is None:
                # Memory is full of ranges that other threads take later.
                self._leave(block)
                return None
        try:
            start = wanted.start - block.whole.start
            return content.result()[start : start + wanted.stop - wanted.start]
        finally:
            with self._lock:
                self._leave(block)

    def drop(self, announced: dict[Range, _Block]) -> None:
        """Removes the ranges that were not taken."""
        with self._lock:
            for one, block in announced.items():
                if self._blocks.get(one) is block:
                    del self._blocks[one]
                    self._leave(block)

    def _start_next(self) -> None:
        while (
            self._queue
            and self._running < REQUESTS
            and self._queue[0].size <= self._free
            and self._start(self._queue[0])
        ):
            self._queue.popleft()

    def _start(self, block: _Block) -> bool:
        """Requests a block; False if the program ends, which starts no threads."""
        try:
            block.content = self._threads.submit(self.fetch, block.whole)
        except RuntimeError:
            return False
        self._running += 1
        self._free -= block.size
        block.is_held = True
        block.content.add_done_callback(lambda _: self._end(block))
        return True

    def _end(self, block: _Block) -> None:
        with self._lock:
            self._running -= 1
            self._release(block)

    def _leave(self, block: _Block) -> None:
        """Notes that one range of a block is taken or dropped."""
        block.left -= 1
        if block.content is None and not block.left:
            self._queue.remove(block)
        self._release(block)

    def _release(self, block: _Block) -> None:
        """Frees the memory of a block that nobody waits for; starts what fits then."""
        is_over = block.content is not None and block.content.done()
        if block.is_held and is_over and not block.left:
            block.is_held = False
            self._free += block.size
        self._start_next()


def _merge(wanted: list[Range]) -> dict[Range, _Block]:
    """Returns the block of each range; blocks come in the order of their first use."""
    blocks: dict[Range, _Block] = {}
    last: _Block | None = None
    for one in sorted(wanted):
        if last is not None and _is_near(last.whole, one):
            stop = max(last.whole.stop, one.stop)
            last.whole = last.whole._replace(stop=stop)
            last.left += 1
        else:
            last = _Block(one)
        blocks[one] = last
    return {one: blocks[one] for one in wanted}


def _is_near(before: Range, one: Range) -> bool:
    return (
        before[:3] == one[:3]
        and one.start - before.stop <= GAP_BYTES
        and one.stop - before.start <= BLOCK_BYTES
    )


_process = _Process()
# What a forked process inherits is never used, and never closed by it either.
_inherited: list[_Process] = []


def _renew() -> None:
    global _process
    _inherited.append(_process)
    _process = _Process()


os.register_at_fork(after_in_child=_renew)

"""Reads survive transient errors, and classify permanent ones."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from glide_jax.data import retrying_reads, schema


@pytest.fixture
def file(tmp_path):
    """A file of ten bytes and its stamp."""
    path = tmp_path / "shard"
    path.write_bytes(b"0123456789")
    descriptor, stamp = retrying_reads.open_file(path)
    os.close(descriptor)
    return path, stamp


def test_a_span_is_read_in_as_many_pieces_as_the_disk_gives(file, monkeypatch):
    path, stamp = file
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda d, n, at: whole(d, min(n, 2), at))
    assert retrying_reads.read_span(path, 3, 5, stamp, "key") == b"34567"


def test_a_failure_that_passes_is_not_seen(file, monkeypatch):
    path, stamp = file
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", (0.0, 0.0))
    whole, failures = os.pread, [errno.EIO, errno.ESTALE]

    def failing(*arguments):
        if failures:
            raise OSError(failures.pop(), "for now")
        return whole(*arguments)

    monkeypatch.setattr(os, "pread", failing)
    assert retrying_reads.read_span(path, 0, 3, stamp, "key") == b"012"


def test_a_file_that_comes_back_while_we_wait_was_never_gone(file, monkeypatch):
    path, stamp = file
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", (0.05,) * 100)
    away = path.with_name("away")
    path.rename(away)
    timer = threading.Timer(0.2, away.rename, [path])
    timer.start()
    assert retrying_reads.read_span(path, 0, 3, stamp, "key") == b"012"
    timer.join()


def test_a_file_given_up_is_not_waited_for_again(file, monkeypatch):
    path, stamp = file
    waited = []
    monkeypatch.setattr(retrying_reads.time, "sleep", waited.append)
    path.unlink()
    for _ in range(2):
        with pytest.raises(schema.BadRecordError, match="key: vanished shard"):
            retrying_reads.read_span(path, 0, 3, stamp, "key")
    assert waited == [*retrying_reads.WAITS_SECS]


def test_after_a_failed_wait_no_other_file_is_waited_for_for_a_while(file, monkeypatch):
    path, stamp = file
    waited, now = [], [0.0]
    monkeypatch.setattr(retrying_reads.time, "sleep", waited.append)
    monkeypatch.setattr(retrying_reads.time, "monotonic", lambda: now[0])
    paths = [path.with_name(f"gone {i}") for i in range(240)]

    def fail(path):
        with pytest.raises(schema.BadRecordError, match="vanished shard"):
            retrying_reads.read_span(path, 0, 3, stamp, "key")

    for gone in paths[:120]:
        fail(gone)
    assert waited == [*retrying_reads.WAITS_SECS]
    # Those that are there are read all the same, and end no rest.
    assert retrying_reads.read_span(path, 0, 3, stamp, "key") == b"012"
    fail(paths[120])
    assert waited == [*retrying_reads.WAITS_SECS]
    now[0] = retrying_reads.PAUSE_SECS
    for gone in paths:
        fail(gone)
    assert waited == [*retrying_reads.WAITS_SECS] * 2


def test_a_failing_disk_is_distinguished_from_a_missing_file(file, monkeypatch):
    path, stamp = file
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", ())

    def failing(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(schema.BadRecordError, match="unreadable shard"):
        retrying_reads.read_span(path, 0, 3, stamp, "key")


def test_a_whole_file_beyond_the_limit_is_not_read(file, monkeypatch):
    path, _ = file
    assert retrying_reads.read_whole(path, 10, "huge image", "key") == b"0123456789"
    monkeypatch.setattr(os, "pread", None)
    with pytest.raises(schema.BadRecordError, match=r"huge image \(10 bytes\)"):
        retrying_reads.read_whole(path, 9, "huge image", "key")

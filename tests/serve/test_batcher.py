"""Laws of the queue and its batches, with a draw that needs no model."""

from __future__ import annotations

import random
import threading
import time
from concurrent import futures

import pytest

from glide_jax import errors
from glide_jax.serve import batcher


class Drawing:
    """A draw that notes its batches, and waits while `gate` is closed."""

    def __init__(self):
        self.batches, self.gate = [], threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def __call__(self, group, rows, poll):
        self.batches.append((group, list(rows)))
        self.begun.release()
        while not self.gate.wait(0.005):
            poll()
        if group == "broken":
            raise errors.UserError("broken group")
        if group == "bug":
            raise ZeroDivisionError("bug")
        return [f"{group}{row}" for row in rows]


@pytest.fixture
def make():
    """make(**changes) -> a started batcher and its drawing; stopped at the end."""
    made = []

    def start(**changes):
        drawing = Drawing()
        given = {"batch_size": 4, "max_delay_s": 30, "max_queue": 8, **changes}
        queue = batcher.Batcher(drawing, **given)
        queue.start()
        made.append((queue, drawing))
        return queue, drawing

    yield start
    for queue, drawing in made:
        drawing.gate.set()
        queue.drain(10)


def test_rows_of_one_group_are_joined_and_results_keep_their_jobs(make):
    queue, drawing = make()
    jobs = [queue.submit(group, rows) for group, rows in (("a", [0]), ("b", [1, 2]))]
    jobs += [queue.submit("a", [3, 4, 5])]  # fills the batch of "a"
    assert jobs[2].future.result(10) == ["a3", "a4", "a5"]
    assert jobs[0].future.result(10) == ["a0"]
    assert not jobs[1].future.done()  # waits for others
    assert drawing.batches == [("a", [0, 3, 4, 5])]
    assert queue.drain(10)  # which waits no longer
    assert jobs[1].future.result(0) == ["b1", "b2"]
    with pytest.raises(batcher.DrainingError):
        queue.submit("a", [0])


def test_a_row_waits_for_others_no_longer_than_the_delay(make):
    queue, drawing = make(max_delay_s=0.05)
    assert queue.submit("a", [0]).future.result(10) == ["a0"]
    large = queue.submit("a", list(range(6)))  # more than a batch
    assert large.future.result(10) == [f"a{i}" for i in range(6)]
    assert [len(rows) for _, rows in drawing.batches] == [1, 4, 2]


def test_a_full_queue_refuses_and_a_cancelled_job_makes_room(make):
    queue, drawing = make()
    drawing.gate.clear()
    running = queue.submit("a", range(4))
    assert drawing.begun.acquire(timeout=10)
    waiting = queue.submit("b", range(7))
    with pytest.raises(batcher.QueueFullError) as full:
        queue.submit("c", range(2))
    assert full.value.retry_after_s >= 1
    assert waiting.future.cancel()
    taken = queue.submit("c", range(8))
    drawing.gate.set()
    assert len(running.future.result(10)) == 4
    assert len(taken.future.result(10)) == 8
    assert "b" not in [group for group, _ in drawing.batches]


def test_a_batch_is_abandoned_when_all_of_its_jobs_are_cancelled(make):
    abandoned = threading.Event()
    queue, drawing = make(events=batcher.Events(abandoned=abandoned.set))
    drawing.gate.clear()
    jobs = [queue.submit("a", range(2)) for _ in range(2)]
    assert drawing.begun.acquire(timeout=10)
    jobs[0].future.cancel()
    assert not abandoned.wait(0.05)  # one client is left
    jobs[1].future.cancel()
    assert abandoned.wait(10)
    drawing.gate.set()
    assert queue.submit("b", range(4)).future.result(10)


def test_an_error_fails_its_batch_and_three_in_a_row_end_the_server(make):
    queue, _ = make(max_delay_s=0)
    for _ in range(5):  # a user's error is no failure of the device
        with pytest.raises(errors.UserError, match="broken group"):
            queue.submit("broken", [0]).future.result(10)
    for _ in range(batcher.MAX_FAILURES - 1):
        with pytest.raises(ZeroDivisionError):
            queue.submit("bug", [0]).future.result(10)
    assert queue.submit("a", [0]).future.result(10) == ["a0"]
    for _ in range(batcher.MAX_FAILURES):
        with pytest.raises(ZeroDivisionError):
            queue.submit("bug", [0]).future.result(10)
    with pytest.raises(batcher.DrainingError):
        queue.submit("a", [0])
    assert isinstance(queue.failure, errors.DeviceFailedError)


def test_a_drain_gives_up_what_takes_longer(make):
    queue, drawing = make()
    drawing.gate.clear()
    running, waiting = queue.submit("a", range(4)), queue.submit("b", range(2))
    assert drawing.begun.acquire(timeout=10)
    assert not queue.drain(0.05)
    assert running.future.cancelled()
    assert waiting.future.cancelled()


def test_many_clients_each_get_their_own_rows(make):
    queue, drawing = make(max_delay_s=0.001, max_queue=1000)

    def ask(client: int) -> None:
        chance = random.Random(client)
        for number in range(30):
            group = chance.choice("ab")
            rows = [(client, number, i) for i in range(chance.randint(1, 6))]
            job = queue.submit(group, rows)
            if chance.random() < 0.3:
                time.sleep(chance.random() / 200)
                job.future.cancel()
            if not job.future.cancelled():
                assert job.future.result(30) == [f"{group}{row}" for row in rows]

    with futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(ask, client) for client in range(8)]:
            done.result(60)
    assert max(len(rows) for _, rows in drawing.batches) == 4

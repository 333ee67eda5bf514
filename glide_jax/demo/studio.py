"""Draws works one after the other, in a thread of its own, and keeps what was drawn.

The queue is that of the server (`serve.batcher`), with one ticket in each batch: the
pictures of a ticket are drawn by the calls, and so the programs, of `glide sample`.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from glide_jax.demo import bundles, features, history
from glide_jax.demo.commands import Work
from glide_jax.errors import UserError
from glide_jax.runtime import wording
from glide_jax.sample import batches, options, request
from glide_jax.serve import batcher

# As the page asks for at first; another number compiles other programs.
WARM_PICTURES = 4


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest works.

    Attributes:
      pictures: of a ticket.
      tickets: that wait.
      preview_every_s: least seconds between two previews.
      preview_least_s: a stage that takes fewer seconds has no preview.
    """

    pictures: int = 16
    tickets: int = 16
    preview_every_s: float | int = 0.5
    preview_least_s: float | int = 2


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a ticket is.

    Attributes:
      stage: "base" or "upsampler"; "" before them.
      num_made, total: steps of that stage; 0 before the first.
      work, num_works: the number of the work, from 1, and of all works.
    """

    stage: str = ""
    num_made: int = 0
    total: int = 0
    work: int = 1
    num_works: int = 1


class Ticket:
    """Works that are drawn together.

    Attributes:
      works: the works.
      keeps: whether the drawn pictures are kept: "listed" in the history, "hidden", or
        "not".
      job: of the queue; its future has the `history.Item`.
      progress: the latest.
      preview: pictures that the stage predicts, uint8 (n, H, W, 3), or None.
    """

    def __init__(self, works: Sequence[Work], keeps: str):
        """Takes works; `Studio.submit` queues them."""
        self.works, self.keeps = tuple(works), keeps
        self.progress = Progress(num_works=len(self.works))
        self.preview: np.ndarray | None = None
        self.job: batcher.Job | None = None

    @property
    def future(self) -> Any:
        """The future of the `history.Item`; may be cancelled."""
        assert self.job is not None
        return self.job.future


class Studio:
    """The models, their queue and the history of one page.

    Attributes:
      models: the loaded bundles.
      features: by "draw" and "fill".
      history: what was drawn.
    """

    def __init__(
        self,
        models: bundles.Models,
        kept: history.History,
        limits: Limits | None = None,
    ):
        """Starts the thread; `close` ends it."""
        self.models, self.history = models, kept
        self.limits = limits or Limits()
        self.features = {
            "draw": features.find(models.draw),
            "fill": features.find(models.fill),
        }
        self._open: list[Ticket] = []
        self._latest: dict[Hashable, Ticket] = {}
        self._lock = threading.Lock()
        self._queue = batcher.Batcher(
            self._draw, batch_size=1, max_delay_s=0, max_queue=self.limits.tickets
        )
        self._previews = futures.ThreadPoolExecutor(1, "preview")
        self._queue.start()

    @property
    def failure(self) -> BaseException | None:
        """Why nothing more is drawn, or None."""
        return self._queue.failure

    def submit(
        self, works: Sequence[Work], owner: Hashable, *, keeps: str = "listed"
    ) -> Ticket:
        """Queues works.

        Args:
          works: drawn in their order.
          owner: whose latest ticket `cancel` ends.
          keeps: see `Ticket`.

        Raises:
          UserError: works that the models refuse, too many pictures, or too many
            tickets that wait.
        """
        total = sum(work.count for work in works)
        if not 1 <= total <= self.limits.pictures:
            raise UserError(
                f"{wording.counted(total, 'picture')} at once; give 1 to "
                f"{self.limits.pictures}"
            )
        for work in works:
            self._check(work)
        ticket = Ticket(works, keeps)
        with self._lock:
            try:
                ticket.job = self._queue.submit(0, [ticket])
            except batcher.QueueFullError as full:
                raise UserError(str(full)) from full
            except batcher.DrainingError as stopping:
                raise UserError(f"{stopping}; start the demo again") from stopping
            self._open.append(ticket)
            self._latest[owner] = ticket
        ticket.future.add_done_callback(lambda future: self._close_ticket(ticket))
        return ticket

    def warm_up(self) -> Ticket:
        """Queues pictures that nobody sees, so that programs are compiled."""
        chosen = self.features["draw"].chosen({})
        count = min(WARM_PICTURES, self.limits.pictures)
        work = Work("sample", "a picture", count, {**chosen, "seed": 0})
        return self.submit([work], None, keeps="not")

    def ahead(self, ticket: Ticket) -> int:
        """Returns the number of tickets that are drawn before this one."""
        with self._lock:
            return self._open.index(ticket) if ticket in self._open else 0

    def cancel(self, owner: Hashable) -> bool:
        """Ends the latest ticket of an owner, after the step that is being made.

        Returns whether there was one that had not ended.
        """
        with self._lock:
            ticket = self._latest.pop(owner, None)
        return ticket is not None and ticket.future.cancel()

    def leave(self, session: str) -> None:
        """Ends the tickets of a session, whose owners are (session, ...)."""
        with self._lock:
            owners = [
                owner
                for owner in self._latest
                if isinstance(owner, tuple) and owner[0] == session
            ]
        for owner in owners:
            self.cancel(owner)

    def close(self) -> None:
        """Ends the thread, after the step that is being made."""
        self._queue.drain(0)
        self._previews.shutdown()

    def _check(self, work: Work) -> None:
        """Raises UserError for a work that the models would refuse when it is drawn."""
        glide = self.models.of(work.verb)
        given: Any = dict(work.options)
        if work.source_prompt is not None:
            given.setdefault("sampler", "ddim")
            if glide.upsampler is not None:
                given.setdefault("upsampler_sampler", "ddim")
        run = request.SamplingRequest(
            (glide.base, glide.upsampler, glide.clip),
            work.prompt,
            work.count,
            given,
            fills=work.verb == "inpaint",
            inverts=work.source_prompt is not None,
        )
        if work.verb == "edit":
            options.check_strength(work.strength)
            run.edited_steps(work.strength)

    def _close_ticket(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket in self._open:
                self._open.remove(ticket)

    def _draw(
        self, group: Any, tickets: list[Ticket], poll: Callable[[], None]
    ) -> list[history.Item | None]:
        """Draws the one ticket of a batch."""
        (ticket,) = tickets
        runs = []
        for number, work in enumerate(ticket.works, start=1):
            watch = _Watch(ticket, number, poll, self._previews, self.limits)
            runs.append((work, _call(self.models, work, watch)))
        poll()
        if ticket.keeps == "not":
            return [None]
        is_listed = ticket.keeps == "listed"
        return [self.history.add(runs, self.models, is_listed=is_listed)]


class _Watch(batches.StepProgress):
    """Notes the progress of a ticket, and ends its work when nobody waits for it.

    A preview is drawn in a thread of its own: the first one compiles a program.
    """

    def __init__(
        self,
        ticket: Ticket,
        number: int,
        poll: Callable[[], None],
        previews: futures.Executor,
        limits: Limits,
    ):
        self._ticket, self._poll, self._limits = ticket, poll, limits
        self._count = ticket.works[number - 1].count
        self._previews, self._drawn = previews, futures.Future[Any]()
        self._drawn.set_result(None)
        self._stages = iter(["base", "upsampler"])
        ticket.progress = Progress(work=number, num_works=len(ticket.works))

    def __call__(self, finished: float | int) -> None:
        self._poll()
        if finished == 0:  # a stage begins
            self._ticket.preview = None
            self._note(stage=next(self._stages), num_made=0, total=0)

    def on_step(self, step: batches.Step) -> None:
        self._poll()
        now = time.monotonic()
        if step.num_made == 1:
            self._first = self._next = now
        self._note(num_made=step.num_made, total=step.total)
        seconds = (now - self._first) / max(1, step.num_made - 1) * step.total
        is_slow = step.num_made > 1 and seconds >= self._limits.preview_least_s
        is_due = now >= self._next and self._drawn.done()
        if is_slow and is_due and step.num_made < step.total:
            self._drawn = self._previews.submit(self._preview, step, now)

    def _preview(self, step: batches.Step, start: float) -> None:
        pictures = step.estimate()[: self._count]
        end = time.monotonic()
        self._next = end + max(self._limits.preview_every_s, 3 * (end - start))
        self._ticket.preview = pictures

    def _note(self, **changes: Any) -> None:
        self._ticket.progress = dataclasses.replace(self._ticket.progress, **changes)


def _call(models: bundles.Models, work: Work, watch: _Watch) -> request.CascadeOutput:
    """Draws a work by the call that the verb of its command makes."""
    glide = models.of(work.verb)
    given: dict[str, Any] = {
        "num_images": work.count,
        "progress": watch,
        **work.options,
    }
    if work.verb == "sample":
        return glide.sample(work.prompt, **given)
    assert work.picture is not None
    if work.verb == "inpaint":
        assert work.known is not None
        known = work.known.astype(np.float32)
        return glide.inpaint(work.picture, known, work.prompt, **given)
    return glide.edit(
        work.picture,
        work.prompt,
        strength=work.strength,
        source_prompts=work.source_prompt,
        **given,
    )

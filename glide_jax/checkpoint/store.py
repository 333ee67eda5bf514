"""Training states by step: proven when written, proven when read, on any mesh.

Every state is a set of named items (params, ema_params, opt_state, ...), each a folder
of its own, so a reader takes only what it wants. With several processes every method
is called by all of them, in the same order, and all get the same answer.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from glide_jax.checkpoint import folders, manifest, peers, proving, writing
from glide_jax.checkpoint import items as stored_items
from glide_jax.config.defaults import CheckpointConfig
from glide_jax.errors import NoCheckpointError, UserError

logger = logging.getLogger(__name__)


class CheckpointStore:
    """The states of a folder; a context manager that closes itself.

    The folder is made by the first save, so that looking leaves no trace. Without a
    `policy` everything is kept. What `check_writer` raises ends a write or deletion.

    Attributes:
      failures_in_a_row: writes that failed since the last that did not.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        policy: CheckpointConfig | None = None,
        check_writer: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self._policy, self._check_writer = policy, check_writer
        self._prover = proving.Prover(self.directory)
        self._talk = peers.Peers(f"writes of {self.directory.name}")
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._writing: tuple[writing.Write, concurrent.futures.Future[str]] | None
        self._writing = None
        self._failure = ""  # of the newest write
        self.failures_in_a_row = 0
        self._untold = ""  # what `poll` has not returned yet
        self._stored: set[int] = set()  # written or restored here
        self._damaged: set[int] = set()  # passed over here

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def save(
        self,
        step: int,
        items: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        *,
        bad_from: int | None = None,
    ) -> bool:
        """Begins to write the state of `step`; False if it is stored, or cannot be.

        Waits for the write before. Returns once the arrays are copied off the devices,
        so donating them next is safe. A failure is logged, told by `poll` and raised
        by `wait`: it costs this step only, and the next save tries again. Once written,
        steps after it are deleted: they are of a future that was given up.

        Args:
          step: of the state.
          items: names to pytrees of arrays.
          meta: JSON.
          metrics: what the policy may keep the step for.
          bad_from: the newest step before this one is kept, whatever the policy says.
        """
        self._check_writer()
        self.settle()
        if step in self._stored:
            return False
        _check_items(items)
        write = writing.Write(
            self.directory,
            self._talk,
            step,
            meta=meta,
            metrics={name: float(value) for name, value in (metrics or {}).items()},
            policy=self._policy,
            check_writer=self._check_writer,
            bad_from=bad_from,
            damaged=frozenset(self._damaged),
        )
        self._prover.forget([step])
        failure = write.start(items)
        if failure:
            self._conclude(step, failure)
            return False
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(
                1, thread_name_prefix="checkpoint"
            )
        self._writing = (write, self._thread.submit(write.finish))
        return True

    def judge(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds what became known of a stored step after it was written.

        A failure is logged: without it the policy may delete the step.
        """
        if not metrics or self._talk.index != 0:
            return
        folder = self.directory / str(step)
        try:
            known = manifest.read(folder)
            values = {name: float(value) for name, value in metrics.items()}
            both = {**known.metrics, **values}
            manifest.write(folder, dataclasses.replace(known, metrics=both))
        except (OSError, manifest.DamagedError) as error:
            logger.warning("checkpoint step %d is not judged (%s)", step, error)

    def poll(self) -> str:
        """A failure not returned yet, in one line; "" if there is none. Never waits."""
        if self._writing is not None and self._writing[1].done():
            self.settle()
        untold, self._untold = self._untold, ""
        return untold

    def settle(self) -> None:
        """Returns once nothing is being written, however that ended."""
        if self._writing is not None:
            write, future = self._writing
            self._writing = None
            self._conclude(write.step, future.result())

    def wait(self) -> None:
        """Returns once the newest write is committed; UserError if it has failed."""
        self.settle()
        failure, self._failure = self._failure, ""
        if failure:
            raise UserError(failure)

    def close(self) -> None:
        """Waits, then frees the writer's thread; the store may be used again."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def steps(self) -> list[int]:
        """Steps that were committed, oldest first; not all need be good still."""
        return folders.list_whole_steps(self.directory)

    def latest_step(self) -> int | None:
        """The newest of them, or None."""
        return max(self.steps(), default=None)

    def is_empty(self) -> bool:
        """True if no step was ever committed here, so that a start is a fresh one.

        Raises:
          NoCheckpointError: there may be states where nothing can be seen.
        """
        folders.check_reachable(self.directory)
        return not self._prover.list_steps()

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and metadata of the newest state whose files are all good, or None.

        Raises:
          NoCheckpointError: there are states, and none is good.
        """

        def prove(step: int) -> tuple[int, dict[str, Any]]:
            self._prover.prove(step, None)
            return step, self._read_meta(step)

        return self._walk_back(prove)

    def restore_newest(
        self, abstract_items: Mapping[str, Any]
    ) -> proving.Restored | None:
        """The newest state that is good in the items asked for, or None without any.

        Each item comes back like its tree of jax.ShapeDtypeStruct: values are cast to
        the dtype asked for and laid out by its sharding; without one they go to this
        process's first device. States that are not good are passed over, and logged
        with reasons.

        Raises:
          NoCheckpointError: there are states, and none is good.
          UserError: a tree that differs from what is stored.
        """
        restored = self._walk_back(
            lambda step: self._prover.restore(step, abstract_items)
        )
        if restored is not None:
            self._stored.add(restored.step)
        return restored

    def restore(self, step: int, abstract_items: Mapping[str, Any]) -> dict[str, Any]:
        """The items of one step, as in `restore_newest`.

        Raises:
          UserError: no such step or item, a damaged file, or a tree that differs.
        """
        self._check_is_there(step)
        try:
            return self._prover.restore(step, abstract_items).items
        except manifest.DamagedError as error:
            raise self._refusal(step, error) from error

    def discard_after(self, step: int) -> None:
        """Deletes later steps, for a run that goes back to `step` for good."""
        self._check_writer()
        self.settle()
        if self._talk.index == 0:
            folders.delete_after(self.directory, step)
        self._talk.exchange("")
        later = [stored for stored in self._stored if stored > step]
        self._stored.difference_update(later)
        self._prover.forget(later)

    def _walk_back(self, read: Callable[[int], Any]) -> Any:
        """What `read(step)` gives for the newest step that it can read."""
        passed_over = []
        for step in reversed(self._prover.list_steps()):
            try:
                return read(step)
            except manifest.DamagedError as error:
                passed_over.append(step)
                self._damaged.add(step)
                if self._talk.index == 0:
                    logger.warning(
                        "checkpoint step %d in %s is passed over: %s",
                        step,
                        self.directory,
                        error,
                    )
        if passed_over:
            listed = ", ".join(map(str, passed_over))
            raise NoCheckpointError(
                f"{self.directory} has checkpoints, and none of them is good (tried "
                f"{listed}): `glide verify` lists the damage; put one back, or start "
                "anew with another --workdir"
            )
        return None

    def _read_meta(self, step: int) -> dict[str, Any]:
        return json.loads((self.directory / str(step) / proving.META).read_bytes())

    def _conclude(self, step: int, failure: str) -> None:
        self._failure = failure
        self._untold = failure or self._untold
        self.failures_in_a_row = self.failures_in_a_row + 1 if failure else 0
        if not failure:
            self._stored.add(step)
            self._damaged.clear()

    def _check_is_there(self, step: int) -> None:
        stored = self._prover.list_steps()
        if step not in stored:
            listed = ", ".join(map(str, stored)) or "none"
            raise UserError(
                f"no checkpoint of step {step} in {self.directory}; stored: {listed}"
            )

    def _refusal(self, step: int, error: manifest.DamagedError) -> UserError:
        return UserError(
            f"checkpoint step {step} in {self.directory} cannot be read, it is damaged "
            f"({error}); name another step, or put its files back"
        )


def _check_items(items: Mapping[str, Any]) -> None:
    for name in (proving.META, manifest.NAME, stored_items.ORBAX_METADATA):
        if name in items:
            raise ValueError(f"an item may not be named {name}")
    for path, leaf in stored_items.leaves_by_path(dict(items)).items():
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # Keys are functions of (seed, step): a stored one would be a second
            # truth, and its layout depends on the PRNG implementation.
            raise TypeError(f"{path} is a PRNG key: not stored")

"""Training states by step: verified on writing and reading, on any mesh.

Every state is a set of named items (params, ema_params, opt_state, ...) in separate
folders, so a reader can restore only some. With several processes every method must be
called by all of them, in the same order, and all get the same result.
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
import jax.numpy as jnp

from glide_jax.checkpoint import (
    async_save,
    folders,
    item_files,
    kv_exchange,
    manifest,
    verification,
)
from glide_jax.config.defaults import CheckpointConfig
from glide_jax.errors import NoCheckpointError, UserError
from glide_jax.runtime import mirrors

logger = logging.getLogger(__name__)


class CheckpointStore:
    """The states of a folder; a context manager that closes itself.

    The first save creates the folder; reading leaves no trace. Without a `policy` every
    step is kept. An exception from `check_writer` ends a write or deletion.

    Attributes:
      failures_in_a_row: failed writes since the last successful one.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        policy: CheckpointConfig | None = None,
        check_writer: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self._policy, self._check_writer = policy, check_writer
        self._verifier = verification.Verifier(self.directory)
        self._channel = kv_exchange.KvExchange(f"writes of {self.directory.name}")
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._writing: (
            tuple[async_save.AsyncSave, concurrent.futures.Future[str]] | None
        )
        self._writing = None
        self._failure = ""  # of the newest write
        self.failures_in_a_row = 0
        self._unreported = ""  # not yet returned by `poll`
        self._stored: set[int] = set()  # written or restored here
        self._damaged: set[int] = set()  # skipped here

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
        """Starts to write the state of `step`; False if it is stored or this fails.

        Waits for the previous write. Returns once the arrays are copied to the host, so
        donating them next is safe. A failure is logged, returned by `poll` and raised
        by `wait`: only this step is lost, and the next save tries again. Once the step
        is written, later steps are deleted: they belong to an abandoned run.

        Args:
          step: step of the state.
          items: names to pytrees of arrays.
          meta: JSON.
          metrics: metrics for the retention policy.
          bad_from: the newest step before this one is kept regardless of the policy.
        """
        self._check_writer()
        self.settle()
        if step in self._stored:
            return False
        _check_items(items)
        write = async_save.AsyncSave(
            self.directory,
            self._channel,
            step,
            meta=meta,
            metrics={name: float(value) for name, value in (metrics or {}).items()},
            policy=self._policy,
            check_writer=self._check_writer,
            bad_from=bad_from,
            damaged=frozenset(self._damaged),
        )
        self._verifier.forget([step])
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

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics to the manifest of a stored step.

        A failure is only logged: without the metrics the policy may delete the step.
        """
        if not metrics or self._channel.index != 0:
            return
        folder = self.directory / str(step)
        try:
            known = manifest.read(folder)
            values = {name: float(value) for name, value in metrics.items()}
            both = {**known.metrics, **values}
            manifest.write(folder, dataclasses.replace(known, metrics=both))
        except (OSError, manifest.DamagedError) as error:
            logger.warning(
                "the metrics of checkpoint step %d could not be stored (%s)",
                step,
                error,
            )

    def poll(self) -> str:
        """A failure not yet returned, as one line; "" if none. Never blocks."""
        if self._writing is not None and self._writing[1].done():
            self.settle()
        unreported, self._unreported = self._unreported, ""
        return unreported

    def settle(self) -> None:
        """Waits until nothing is being written, whether it succeeded or failed."""
        if self._writing is not None:
            write, future = self._writing
            self._writing = None
            self._conclude(write.step, future.result())

    def wait(self) -> None:
        """Waits until the newest write is committed; UserError if it failed."""
        self.settle()
        failure, self._failure = self._failure, ""
        if failure:
            raise UserError(failure)

    def close(self) -> None:
        """Waits, then shuts down the writer thread; the store remains usable."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def steps(self) -> list[int]:
        """Committed steps, oldest first; some may be damaged."""
        found = folders.list_whole_steps(self.directory)
        if mirrors.separated(self.directory):
            found = json.loads(self._channel.exchange(json.dumps(found))[0])
        return found

    def latest_step(self) -> int | None:
        """The newest committed step, or None."""
        return max(self.steps(), default=None)

    def is_empty(self) -> bool:
        """True if no step was ever committed, so that a start is a fresh one.

        Raises:
          NoCheckpointError: the folder is unreachable and may contain states.
        """
        folders.check_reachable(self.directory)
        return not self._verifier.list_steps()

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and metadata of the newest state whose files are all valid, or None.

        Raises:
          NoCheckpointError: states exist, but none is valid.
        """

        def verify(step: int) -> tuple[int, dict[str, Any]]:
            self._verifier.verify(step, None)
            path = self.directory / str(step) / verification.META
            return step, json.loads(path.read_bytes())

        return self._walk_back(verify)

    def restore_newest(
        self, abstract_items: Mapping[str, Any]
    ) -> verification.Restored | None:
        """Restores the newest state whose requested items are valid, or None.

        Each item is returned like its tree of jax.ShapeDtypeStruct: values are cast to
        the given dtype and placed by its sharding; without one they are placed on this
        process's first device. Damaged states are skipped, and logged with reasons.

        Raises:
          NoCheckpointError: states exist, but none is valid.
          UserError: a tree that differs from what is stored.
        """
        restored = self._walk_back(
            lambda step: self._verifier.restore(step, abstract_items)
        )
        if restored is not None:
            self._stored.add(restored.step)
        return restored

    def restore(self, step: int, abstract_items: Mapping[str, Any]) -> dict[str, Any]:
        """Restores the items of one step, as `restore_newest` does.

        Raises:
          UserError: no such step or item, a damaged file, or a tree that differs.
        """
        stored = self._verifier.list_steps()
        if step not in stored:
            listed = ", ".join(map(str, stored)) or "none"
            raise UserError(
                f"no checkpoint of step {step} in {self.directory}; stored: {listed}"
            )
        try:
            return self._verifier.restore(step, abstract_items).items
        except manifest.DamagedError as error:
            raise UserError(
                f"checkpoint step {step} in {self.directory} is damaged ({error}); "
                "name another step, or restore its files"
            ) from error

    def discard_after(self, step: int) -> None:
        """Deletes later steps, for a run that permanently rewinds to `step`."""
        self._check_writer()
        self.settle()
        copy = mirrors.separated(self.directory)
        if copy.is_leader if copy else self._channel.index == 0:
            folders.delete_after(self.directory, step)
        self._channel.exchange("")
        later = [stored for stored in self._stored if stored > step]
        self._stored.difference_update(later)
        self._verifier.forget(later)

    def _walk_back(self, read: Callable[[int], Any]) -> Any:
        """Returns `read(step)` for the newest step that it can read."""
        damaged = []
        for step in reversed(self._verifier.list_steps()):
            try:
                return read(step)
            except manifest.DamagedError as error:
                damaged.append(step)
                self._damaged.add(step)
                if self._channel.index == 0:
                    logger.warning(
                        "checkpoint step %d in %s is skipped: %s",
                        step,
                        self.directory,
                        error,
                    )
        if damaged:
            listed = ", ".join(map(str, damaged))
            raise NoCheckpointError(
                f"{self.directory} has checkpoints, but none is valid (tried "
                f"{listed}); restore one (`glide verify` lists the damage), or start "
                "with another --workdir"
            )
        return None

    def _conclude(self, step: int, failure: str) -> None:
        self._failure = failure
        self._unreported = failure or self._unreported
        self.failures_in_a_row = self.failures_in_a_row + 1 if failure else 0
        if not failure:
            self._stored.add(step)
            self._damaged.clear()


def _check_items(items: Mapping[str, Any]) -> None:
    for name in (verification.META, manifest.NAME, item_files.ORBAX_METADATA):
        if name in items:
            raise ValueError(f"an item may not be named {name}")
    for path, leaf in item_files.leaves_by_path(dict(items)).items():
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # Keys are functions of (seed, step): a stored one would be redundant,
            # and its layout depends on the PRNG implementation.
            raise TypeError(f"{path} is a PRNG key: not stored")

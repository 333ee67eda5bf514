"""Which local steps belong to a run as its workdir knows it.

Disks of hosts outlive a run: a host that comes back after days may have steps of a run
that has since gone back to an older one, or of an earlier run in the same folder. So
each start stamps its local steps with a token of its own, and local_tier.json of the
workdir lists the tokens of the run's past, each with the last step that is still part
of it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import secrets

from glide_jax.runtime import files

NAME = "local_tier.json"
ENDLESS = 2**62
# Older starts have no steps on any disk: each host keeps two.
_MOST_STARTS = 16


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Tokens of the starts of a run, oldest first, each with its last valid step."""

    starts: tuple[tuple[str, int], ...] = ()

    def has(self, token: str, step: int) -> bool:
        """Whether the step that a start wrote is part of the run."""
        return step <= dict(self.starts).get(token, -1)

    def cut(self, step: int) -> Lineage:
        """Returns the lineage of a run that resumes from `step`."""
        return Lineage(tuple((token, min(last, step)) for token, last in self.starts))

    def begin(self) -> Lineage:
        """Returns the lineage with a new start, whose token is `token`."""
        starts = (*self.starts, (secrets.token_hex(16), ENDLESS))
        return Lineage(starts[-_MOST_STARTS:])

    @property
    def token(self) -> str:
        """The token of the newest start."""
        return self.starts[-1][0]

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps({"starts": self.starts}, indent=1) + "\n"


def parse(text: str) -> Lineage:
    """The inverse of `Lineage.to_text`; damaged text is an empty lineage."""
    try:
        return Lineage(tuple((str(t), int(n)) for t, n in json.loads(text)["starts"]))
    except (ValueError, LookupError, TypeError):
        return Lineage()


def read(workdir: pathlib.Path) -> Lineage:
    """The lineage of a workdir; empty if it has none."""
    path = workdir / NAME
    return parse(path.read_text()) if path.exists() else Lineage()


def write(workdir: pathlib.Path, lineage: Lineage) -> None:
    """Writes the lineage of a workdir; called by one process."""
    files.write_text(workdir / NAME, lineage.to_text())

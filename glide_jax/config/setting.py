"""Declares one setting: its default, its values, and its part in a resumed run.

The declaration is stored in the metadata of the dataclass field. Validation, the
settings reference and the check of a resumed run all read it from there.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from glide_jax.errors import UserError

T = TypeVar("T")
Choices = Iterable[str] | Callable[[], Iterable[str]]
Bound = int | float | None
_KEY = "glide_jax"


class OnResume(enum.StrEnum):
    """What a change of a setting does to a run that continues from a checkpoint."""

    FREE = "may change"
    # Another run; allowed where --allow_change names the setting.
    IDENTITY = "refused without --allow_change"
    ARRAYS = "never"  # the checkpoints contain other arrays
    # ARRAYS where the checkpoints contain a history of losses, otherwise IDENTITY.
    HISTORY = "refused without --allow_change; never with loss_second_moment"


FREE, IDENTITY = OnResume.FREE, OnResume.IDENTITY
ARRAYS, HISTORY = OnResume.ARRAYS, OnResume.HISTORY


@dataclasses.dataclass(frozen=True)
class Rule:
    """The values of a setting, of each item if it is a tuple, and its part in a resume.

    Attributes:
      on_resume: what a change does to a run that is resumed.
      choices: the allowed words, or a function that returns them; None: any.
      low, high: inclusive bounds.
      above, below: exclusive bounds.
    """

    on_resume: OnResume
    choices: Choices | None = None
    low: Bound = None
    high: Bound = None
    above: Bound = None
    below: Bound = None

    def words(self) -> tuple[str, ...]:
        """The allowed words; empty if any text is allowed."""
        choices = self.choices() if callable(self.choices) else self.choices
        return tuple(choices or ())

    def allows(self, value: Any) -> bool:
        """Whether a value is allowed; of a tuple, whether each item is."""
        if isinstance(value, tuple):
            return all(map(self.allows, value))
        return (
            (self.choices is None or value in self.words())
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def describe(self) -> str:
        """The allowed values, e.g. "0 to 1" or "more than 0"; "" if all are."""
        if self.choices is not None:
            return ", ".join(self.words())
        if self.low is not None and self.high is not None:
            return f"{self.low} to {self.high}"
        bounds = (
            (self.low, "{} or more"),
            (self.above, "more than {}"),
            (self.high, "{} or less"),
            (self.below, "less than {}"),
        )
        return ", ".join(text.format(b) for b, text in bounds if b is not None)


def setting(
    default: T,
    on_resume: OnResume,
    *,
    choices: Choices | None = None,
    low: Bound = None,
    high: Bound = None,
    above: Bound = None,
    below: Bound = None,
) -> T:
    """Declares a field of a section with its `Rule`.

    The result is a `dataclasses.Field`; type checkers see the type of the default, as
    they do for `dataclasses.field`.
    """
    rule = Rule(on_resume, choices, low, high, above, below)
    field: Any = dataclasses.field(default=default, metadata={_KEY: rule})
    return field


def rules_of(section: type) -> dict[str, Rule]:
    """The rules of a section's fields by name, without fields that declare none."""
    return {
        field.name: field.metadata[_KEY]
        for field in dataclasses.fields(section)
        if _KEY in field.metadata
    }


def check_values(prefix: str, section: Any) -> None:
    """Checks each setting of a section against its own rule.

    Raises:
      UserError: the first value that is not allowed, with `prefix` before its name.
    """
    for name, rule in rules_of(type(section)).items():
        value = getattr(section, name)
        if not rule.allows(value):
            raise UserError(
                f"{prefix}{name}={value!r} is not allowed; use {rule.describe()}"
            )

"""Checks the fields of JSON objects in files that people may edit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check(value: Any, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Returns the object if it has all required fields with the right types.

    Args:
      value: any JSON value.
      kinds: the allowed types of each required field. Other fields are allowed.

    Raises:
      TypeError: a field is missing or has another type; the message names it.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.60} is not an object")
    for name, kind in kinds.items():
        if name not in value:
            raise TypeError(f"no {name!r}")
        # In Python True is an int; in these files it is not a number.
        if isinstance(value[name], bool) or not isinstance(value[name], kind):
            names = " or ".join(one.__name__ for one in kind)
            raise TypeError(f"{name!r} is {value[name]!r:.60}, not {names}")
    return value

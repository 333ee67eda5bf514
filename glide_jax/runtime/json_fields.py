"""Are the fields of a JSON object what they should be? Anybody may edit such a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check(value: Any, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """The object, if it has all these fields, each of one of its kinds.

    Args:
      value: of any JSON type.
      kinds: what is asked, by the field's name. Others may be there too.

    Raises:
      TypeError: names the first that is not so.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.60} is no object")
    for name, kind in kinds.items():
        if name not in value:
            raise TypeError(f"no {name!r}")
        # To Python true is an int; to the files that we write it is none.
        if isinstance(value[name], bool) or not isinstance(value[name], kind):
            names = " or ".join(one.__name__ for one in kind)
            raise TypeError(f"{name!r} is {value[name]!r:.60}, not {names}")
    return value

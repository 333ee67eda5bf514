"""Converts settings between dataclasses, ConfigDicts for flags, and JSON for files.

The dataclasses of `defaults` are the only schema. Experiment files return a ConfigDict,
which the command line overrides; everything else uses a frozen `Config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from glide_jax.config import defaults
from glide_jax.errors import UserError

T = typing.TypeVar("T")
ABSENT = "(absent)"
_TYPE_NAMES = {
    bool: "a bool",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def to_config_dict(config: defaults.Config) -> ml_collections.ConfigDict:
    """Returns the settings as a nested, locked ConfigDict with tuples."""
    config_dict = ml_collections.ConfigDict(
        dataclasses.asdict(config), convert_dict=True
    )
    return config_dict.lock()


def from_config_dict(config_dict: ml_collections.ConfigDict) -> defaults.Config:
    """Returns the settings of a ConfigDict; missing keys take their defaults.

    Raises:
      UserError: an unknown key, or a value of the wrong type.
    """
    return _from_nested(config_dict.to_dict())


def to_json(config: defaults.Config) -> str:
    """Returns indented JSON, the same for equal settings."""
    return json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> defaults.Config:
    """Parses the result of `to_json`; missing keys take their defaults.

    Raises:
      UserError: not JSON, an unknown key, or a value of the wrong type.
    """
    try:
        nested = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"the configuration is not JSON ({error}); use a file of glide train"
        ) from error
    if not isinstance(nested, dict):
        raise UserError(
            f"the configuration is a JSON {type(nested).__name__}; use an object with "
            "sections such as model and train"
        )
    return _from_nested(nested)


def override(config: defaults.Config, changes: Mapping[str, Any]) -> defaults.Config:
    """Returns the settings with changes by path, e.g. {"optim.learning_rate": 1e-3}.

    Raises:
      UserError: an unknown path, or a value of the wrong type.
    """
    nested = dataclasses.asdict(config)
    for path, value in changes.items():
        *sections, name = path.split(".")
        node = nested
        for depth, section in enumerate(sections):
            if not isinstance(node.get(section), dict):
                _refuse_key(section, node, ".".join(sections[:depth]))
            node = node[section]
        if name not in node:
            _refuse_key(name, node, ".".join(sections))
        node[name] = value
    return _from_nested(nested)


def differences(a: defaults.Config, b: defaults.Config) -> list[str]:
    """Returns a line for each difference, e.g. "model.num_channels: 32 -> 64"."""
    before, after = flatten(dataclasses.asdict(a)), flatten(dataclasses.asdict(b))
    return [
        f"{path}: {before.get(path, ABSENT)} -> {after.get(path, ABSENT)}"
        for path in before | after
        if before.get(path, ABSENT) != after.get(path, ABSENT)
    ]


def check_key(config: defaults.Config, path: str) -> None:
    """Raises UserError unless `path` is that of a setting or a section."""
    known: set[str] = set()
    for leaf in flatten(dataclasses.asdict(config)):
        parts = leaf.split(".")
        known |= {".".join(parts[: end + 1]) for end in range(len(parts))}
    if path not in known:
        near = difflib.get_close_matches(path, sorted(known), n=1)
        remedy = f"did you mean {near[0]}?" if near else "e.g. data.sources"
        raise UserError(
            f"{path!r} is not a setting; {remedy} (see `glide help settings`)"
        )


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings by dotted path."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _from_nested(nested: Mapping[str, Any]) -> defaults.Config:
    sections = {"model": _model_class(nested.get("model", {})), **defaults.SECTIONS}
    return from_sections(defaults.Config, nested, ("name", "seed"), sections)


def from_sections(
    whole: type[T], nested: Mapping[str, Any], plain: tuple[str, ...], sections: dict
) -> T:
    """Returns a dataclass of sections with the values of a nested mapping.

    Args:
      whole: the dataclass.
      nested: the values; missing ones take their defaults.
      plain: the fields that are not sections.
      sections: the dataclass of each section by its name.

    Raises:
      UserError: an unknown key, or a value of the wrong type.
    """
    for name in nested:
        if name not in (*plain, *sections):
            _refuse_key(name, (*plain, *sections), "")
    types = typing.get_type_hints(whole)
    values = {n: _coerce(nested[n], types[n], n) for n in plain if n in nested}
    for name, section in sections.items():
        values[name] = _section(section, nested.get(name, {}), name)
    return whole(**values)


def _model_class(values: Any) -> type:
    family = values.get("family", "text2im") if isinstance(values, Mapping) else ""
    if family not in defaults.MODEL_FAMILIES:
        known = " or ".join(defaults.MODEL_FAMILIES)
        raise UserError(f"model.family={family!r} is not known; use {known}")
    return defaults.MODEL_FAMILIES[family]


def _section(section: type, values: Any, path: str):
    if not isinstance(values, Mapping):
        raise UserError(f"{path}={values!r} is not a section; set keys such as {path}.")
    types = typing.get_type_hints(section)
    for name in values:
        if name not in types:
            _refuse_key(name, types, path)
    return section(
        **{
            name: _coerce(value, types[name], f"{path}.{name}")
            for name, value in values.items()
        }
    )


def _refuse_key(name: str, known: typing.Iterable[str], path: str) -> typing.NoReturn:
    prefix = f"{path}." if path else ""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    remedy = (
        f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
    )
    raise UserError(
        f"{prefix}{name} is not a setting; {remedy} (see `glide help settings`)"
    )


def _coerce(value: Any, type_: Any, path: str) -> Any:
    """Converts `value` to `type_`: int to float, list to tuple."""
    if typing.get_origin(type_) is tuple:
        if not isinstance(value, tuple | list):
            _refuse_type(value, "a tuple", path)
        item_type = typing.get_args(type_)[0]
        return tuple(
            _coerce(item, item_type, f"{path}[{i}]") for i, item in enumerate(value)
        )
    # bool is a subclass of int, but not a number in a configuration.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if type_ is float and is_number:
        if not math.isfinite(value):
            raise UserError(f"{path}={value} is not finite; give a finite number")
        return float(value)
    if not isinstance(value, type_) or (type_ is int and not is_number):
        _refuse_type(value, _TYPE_NAMES[type_], path)
    return value


def _refuse_type(value: Any, wanted: str, path: str) -> typing.NoReturn:
    default = flatten(dataclasses.asdict(defaults.Config())).get(path)
    raise UserError(
        f"{path}={value!r} is a {type(value).__name__}; use {wanted}"
        + (f" such as {default!r}" if default not in (None, "") else "")
    )

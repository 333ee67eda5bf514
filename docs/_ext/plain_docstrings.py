"""Converts the docstrings of the package to reStructuredText for autodoc.

A docstring is plain text with single backticks around code and Google sections of an
indent of two. It is read in a terminal and an editor as often as on a page, so it has
no other markup: everything else is escaped. A block with aligned columns, with uneven
indents or with numbered equations is shown as it is written.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterable

from sphinx.util import inspect as sphinx_inspect

SECTION = re.compile(r"(Args|Returns|Yields|Raises|Attributes|Example|Examples):\s*")
# "name: text", "*args: text", "name, other, and the keywords: text"
ENTRY = re.compile(r"([\w*.][\w*., ()]*?): +(.*)|([\w*.][\w*., ()]*?):$")
FIELDS = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises"}


def setup(app) -> dict[str, bool]:
    """Registers the conversion with Sphinx."""
    app.connect("autodoc-process-docstring", _on_docstring)
    app.connect("autodoc-process-signature", _on_signature)
    app.connect("autodoc-skip-member", _on_member)
    return {"parallel_read_safe": True}


def _on_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    module = name
    while module and module not in _module_names():
        module = module.rpartition(".")[0]
    lines[:] = convert(lines, module)


def _on_signature(app, what, name, obj, options, signature, returns):
    """Annotations as they stand in the source, where array types have names."""
    is_record = what == "class" and hasattr(obj, "_fields")
    if what not in ("function", "method", "class") or (signature, is_record) == (
        None,
        False,
    ):
        return None
    written = inspect.signature(obj)
    parameters = [
        # A NamedTuple keeps its annotations as ForwardRef.
        parameter.replace(
            annotation=getattr(
                parameter.annotation, "__forward_arg__", parameter.annotation
            )
        )
        for i, parameter in enumerate(written.parameters.values())
        # The fields of a Flax module that Flax adds have objects as annotations.
        if (i or what != "method" or parameter.name not in ("self", "cls"))
        and isinstance(
            parameter.annotation, str | type(parameter.empty) | typing.ForwardRef
        )
    ]
    written = written.replace(parameters=parameters)
    shown = sphinx_inspect.stringify_signature(written, show_return_annotation=False)
    is_function = what != "class" and written.return_annotation is not written.empty
    return shown, (written.return_annotation if is_function else None)


def _on_member(app, what, name, obj, skip, options):
    """Leaves out the fields of a class: its signature and docstring describe them."""
    is_described = inspect.isroutine(obj) or isinstance(obj, property | type)
    return True if what == "class" and not is_described else None


def convert(lines: Iterable[str], module: str = "") -> list[str]:
    """Returns the docstring as lines of reStructuredText.

    Args:
      lines: the docstring, without its common indent.
      module: name of the module that unqualified names belong to.
    """
    out: list[str] = []
    lines = [line.rstrip() for line in lines]
    start = 0
    while start < len(lines):
        match = SECTION.fullmatch(lines[start])
        if match:
            stop = start + 1
            while stop < len(lines) and (not lines[stop] or lines[stop][0] == " "):
                stop += 1
            out += ["", *_section(match[1], lines[start + 1 : stop], module)]
        else:
            stop = start + 1
            while stop < len(lines) and not SECTION.fullmatch(lines[stop]):
                stop += 1
            out += _text(lines[start:stop], module)
        start = stop
    return out


def _section(title: str, lines: list[str], module: str) -> list[str]:
    lines = inspect.cleandoc("\n".join(["", *lines])).splitlines()
    if title in ("Example", "Examples"):
        return ["**Example**", "", *_literal(lines)]
    body = _text(lines, module)
    if title in FIELDS:
        entries = _entries(lines)
        if entries is not None:
            body = [
                f"* {_names(names, module)}: {_inline(text, module)}"
                for names, text in entries
            ]
    return [f":{FIELDS.get(title, title)}:", *(f"   {line}" for line in body), ""]


def _entries(lines: list[str]) -> list[tuple[str, str]] | None:
    """(names, text) of each entry of a section; None if it has no entries."""
    entries: list[tuple[str, str]] = []
    for line in lines:
        match = None if line[:1] == " " else ENTRY.match(line)
        if match:
            entries.append((match[1] or match[3], match[2] or ""))
        elif not entries:
            return None
        elif line:
            names, text = entries[-1]
            entries[-1] = (names, f"{text} {line.strip()}")
    return entries


def _names(names: str, module: str) -> str:
    words = re.split(r"([\w*.()]+)", names)
    return "".join(
        word if not i % 2 or word == "and" else f"``{word}``"
        for i, word in enumerate(words)
    )


def _text(lines: list[str], module: str) -> list[str]:
    """Paragraphs, literal blocks and bullet lists outside of sections."""
    out: list[str] = []
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        rows = [row for row in block.splitlines() if row.strip()]
        if not rows:
            continue
        bullets = _bullets(rows)
        if bullets:
            out += [f"* {_inline(bullet, module)}" for bullet in bullets]
        elif _is_literal(rows):
            out += _literal(rows)
        else:
            out.append(_inline(" ".join(row.strip() for row in rows), module))
        out.append("")
    return out


def _bullets(rows: list[str]) -> list[str] | None:
    """The items of a bullet list; None for another block."""
    if not rows[0].lstrip().startswith(("- ", "* ")):
        return None
    items: list[str] = []
    for row in rows:
        text = row.strip()
        if text.startswith(("- ", "* ")):
            items.append(text[2:])
        else:
            items[-1] += f" {text}"
    return items


def _is_literal(rows: list[str]) -> bool:
    has_columns = any(re.search(r"\S {3,}\S", row) for row in rows)
    is_indented = any(row[0] == " " for row in rows)
    return has_columns or is_indented or re.match(r"\d+\. ", rows[0]) is not None


def _literal(rows: list[str]) -> list[str]:
    return [".. code-block:: text", "", *(f"   {row}" for row in rows), ""]


def _inline(text: str, module: str) -> str:
    """One paragraph with its code as literals or references, all else escaped."""
    parts = re.split(r"``(.+?)``|`(.+?)`", text)
    out = []
    for i in range(0, len(parts), 3):
        out.append(re.sub(r"([\\*|_`])", r"\\\1", parts[i]))
        if i + 2 < len(parts):
            code = parts[i + 1] or parts[i + 2]
            # Inline markup has to end before a letter.
            following = parts[i + 3][:1]
            out.append(_code(code, module) + ("\\ " if following.isalnum() else ""))
    return "".join(out).replace("::", ":\\:")


def _code(code: str, module: str) -> str:
    target = _resolve(code.removesuffix("()"), module)
    return f":py:obj:`{code} <{target}>`" if target else f"``{code}``"


def _resolve(name: str, module: str) -> str | None:
    """The full name of a public object or module, from a name used in `module`."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        return None
    known = _public_names()
    if f"{module}.{name}" in known:
        return f"{module}.{name}"
    if "." in name:
        ending = [full for full in known if full.endswith(f".{name}") or full == name]
        return ending[0] if len(ending) == 1 else None
    return None


@functools.cache
def _module_names() -> frozenset[str]:
    return frozenset(module_names())


def module_names() -> list[str]:
    """Every module of the package by its dotted name."""
    package = importlib.import_module("glide_jax")
    walk = pkgutil.walk_packages(package.__path__, "glide_jax.")
    return ["glide_jax", *sorted(info.name for info in walk)]


@functools.cache
def _public_names() -> frozenset[str]:
    """The names that the pages of the API describe."""
    names = set()
    for module_name in module_names():
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            if (
                not name.startswith("_")
                and getattr(value, "__module__", None) == module_name
                and (inspect.isclass(value) or inspect.isfunction(value))
            ):
                names.add(f"{module_name}.{name}")
        names.add(module_name)
    return frozenset(names)

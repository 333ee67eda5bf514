"""The settings reference, read from the fields and the comments of `defaults`."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import io
import textwrap
import tokenize
from typing import Any, NamedTuple

from glide_jax.config import defaults, model_settings
from glide_jax.config.setting import Rule, rules_of
from glide_jax.errors import UserError

_TYPES = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "True or False",
}
# What other programs call some of the settings.
_ABBREVIATIONS = {
    "lr": "learning_rate",
    "batch_size": "global_batch_size",
    "steps": "num_steps",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
}


class Setting(NamedTuple):
    """One setting; `name` has its section, e.g. "train.num_steps"."""

    name: str
    type: str
    default: Any
    meaning: str
    rule: Rule

    def values(self) -> str:
        """Its type and allowed values, e.g. "whole number, 1 or more"."""
        separator = ": " if self.rule.choices else ", "
        return separator.join(filter(None, (self.type, self.rule.describe())))


class Section(NamedTuple):
    """Settings that share a prefix; `title` distinguishes the model families."""

    title: str
    meaning: str
    settings: tuple[Setting, ...]


def sections(prefix: str = "") -> list[Section]:
    """Returns the sections with the settings whose names start with `prefix`.

    Raises:
      UserError: no name starts with it.
    """
    families = defaults.MODEL_FAMILIES.items()
    classes = [
        ("", "", defaults.Config),
        *((f"model ({family})", "model.", class_) for family, class_ in families),
        *((name, f"{name}.", class_) for name, class_ in defaults.SECTIONS.items()),
    ]
    nested = {"model", *defaults.SECTIONS}
    comments = _comments()
    found = []
    for title, start, class_ in classes:
        rules = rules_of(class_)
        settings = tuple(
            Setting(
                start + field.name,
                _type_name(str(field.type)),
                field.default,
                comments[class_.__name__, field.name],
                rules[field.name],
            )
            for field in dataclasses.fields(class_)
            if (start or field.name not in nested)
            and (start + field.name).startswith(prefix)
        )
        if settings:
            meaning = inspect.cleandoc(class_.__doc__ or "")
            found.append(Section(title or "run", meaning, settings))
    if not found:
        near = nearest(prefix)
        remedy = f"did you mean {near}? The" if near else "the"
        raise UserError(
            f"no setting starts with {prefix!r}; {remedy} sections are "
            f"{', '.join(sorted(nested))}, e.g. glide settings train"
        )
    return found


def nearest(name: str) -> str:
    """The setting or section that `name` probably means, or ""."""
    known = [s.name for section in sections() for s in section.settings]
    known += ["model", *defaults.SECTIONS]
    *section, last = name.split(".")
    meant = ".".join([*section, _ABBREVIATIONS.get(last, last)])
    whole = [k for k in known if k == meant or k.endswith(f".{meant}")]
    return next(iter(whole or difflib.get_close_matches(meant, known, n=1)), "")


def to_text(found: list[Section]) -> str:
    """Formats the sections for a terminal."""
    lines = [
        '"On resume" states whether a resumed run may change the setting. "Never": the',
        "arrays of its checkpoints would not fit; start a new --workdir.",
        "",
    ]
    for section in found:
        lines += [f"{section.title}: {section.meaning}".rstrip(), ""]
        for setting in section.settings:
            lines.append(f"  --config.{setting.name}={_as_given(setting.default)}")
            indent = " " * 6
            lines += textwrap.wrap(
                f"{setting.meaning} [{setting.values()}; on resume: "
                f"{setting.rule.on_resume}]",
                88,
                initial_indent=indent,
                subsequent_indent=indent,
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def to_markdown(found: list[Section]) -> str:
    """Formats the sections as docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Each is set as `--config.NAME=VALUE`. The defaults are those of",
        "`glide_jax/config/defaults.py`. The files of `experiments/configs/` change",
        "some of them, and `glide train --config=... --dry_run` prints those of a run.",
        '"Published" is the GLIDE paper or its released code, "inferred" follows a',
        'paper that GLIDE builds on, and "ours" is a choice that nobody published.',
        "",
        "The column `resume` states whether a resumed run may change the setting.",
        "`may change`: yes. `refused without --allow_change`: the change makes another",
        "run, so `--allow_change=NAME` has to name the setting. `never`: the arrays of",
        "the checkpoints would not fit; start a new `--workdir`. `loss_second_moment`",
        "is a value of `train.timestep_sampling`, which stores a history of losses.",
        "",
        "This page is generated by `glide settings --markdown > docs/settings.md`.",
    ]
    for section in found:
        lines += ["", f"## {section.title}", "", section.meaning, ""]
        lines += [
            "| setting | default | values | resume | meaning |",
            "|---|---|---|---|---|",
        ]
        for setting in section.settings:
            meaning = setting.meaning.replace("|", "\\|")
            value = setting.default
            shown = repr(value) if isinstance(value, tuple) else str(value)
            default = f"`{shown}`" if shown else ""
            lines.append(
                f"| `{setting.name}` | {default} | {setting.values()} | "
                f"{setting.rule.on_resume} | {meaning} |"
            )
    return "\n".join(lines)


def _as_given(value: Any) -> str:
    """Returns the default as it is written on the command line."""
    return f"'{value!r}'" if isinstance(value, tuple) else str(value)


def _type_name(annotation: str) -> str:
    if annotation.startswith("tuple["):
        item = annotation.removeprefix("tuple[").partition(",")[0]
        return f"tuple, each a {_TYPES[item]}"
    return _TYPES[annotation]


def _comments() -> dict[tuple[str, str], str]:
    """Maps (class, field) to the comment beside the field, else the lines above it."""
    found = {}
    for module in (model_settings, defaults):
        found |= _comments_of(inspect.getsource(module))
    return found


def _comments_of(source: str) -> dict[tuple[str, str], str]:
    comments = {
        token.start[0]: (
            token.string.lstrip("# "),
            not token.line[: token.start[1]].strip(),
        )
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for class_ in ast.parse(source).body:
        if not isinstance(class_, ast.ClassDef):
            continue
        for node in class_.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(
                node.target, ast.Name
            ):
                continue
            line, parts = node.lineno, []
            if line in comments:
                parts = [comments[line][0]]
            else:
                while comments.get(line - 1, ("", False))[1]:
                    line -= 1
                    parts.insert(0, comments[line][0])
            found[class_.name, node.target.id] = " ".join(parts)
    return found

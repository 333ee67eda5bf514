"""Writes the pages of the verbs and of the API before the documentation is built.

generated/verbs.md has every verb with its flags, and generated/api/ a page for each
folder of the package. Pages that belong elsewhere in the checkout and the notebooks of
examples/ are copied beside them. Nothing under generated/ is committed.

    python docs/_ext/generated_pages.py

writes the tables of options and samplers into sampling.md, which is committed.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pathlib
import re
import shutil
import textwrap

from absl import flags

DOCS = pathlib.Path(__file__).parents[1]
ROOT = DOCS.parent
EXAMPLES = ROOT / "examples"
GENERATED = DOCS / "generated"
# Files of the checkout that are pages of the documentation as well.
COPIED = {
    "experiments/README.md": "experiments.md",
    "experiments/results/plan/README.md": "plans.md",
    "experiments/results/plan/phases_h100.md": "phases_h100.md",
    "experiments/results/chaos/report.md": "chaos.md",
    "experiments/results/chaos/local_checkpoints.md": "chaos_local_checkpoints.md",
    "experiments/results/chaos/lost_steps.md": "lost_steps.md",
    "experiments/results/curves/quickstart.md": "curves_quickstart.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
PACKAGE = "glide_jax"
# In the order in which the parts build upon each other; others follow by name.
ORDER = (
    *("diffusion", "models", "text", "data", "parallel", "checkpoint", "config"),
    *("prepare", "train", "sample", "serve", "demo", "hooks", "eval", "study", "sweep"),
    *("convert", "plan", "bench", "quickstart", "runtime", "cli"),
)


def setup(app) -> dict[str, bool]:
    """Registers the generator with Sphinx."""
    app.connect("builder-inited", lambda app: write(GENERATED))
    app.connect("source-read", _on_source)
    return {"parallel_read_safe": True}


def write(folder: pathlib.Path) -> None:
    """Writes all generated pages; a page that is current is left as it is."""
    pages = {"verbs.md": verbs_page(), **api_pages(), **copied_pages()}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for notebook in sorted(EXAMPLES.glob("*.ipynb")):
        copy = folder / notebook.name
        if not copy.exists() or copy.read_bytes() != notebook.read_bytes():
            shutil.copyfile(notebook, copy)
        pages[notebook.name] = ""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in pages:
            path.unlink()  # of a folder of the package that is gone


def copied_pages() -> dict[str, str]:
    """The pages of COPIED, with links that fit their new place."""
    pages = {}
    for source, name in COPIED.items():
        path = ROOT / source
        text = rewrite_links(path.read_text(), path.parent, GENERATED)
        # Tables of a result are linked from its page, not from the sidebar.
        if name.startswith("curves_"):
            title = name.removeprefix("curves_").removesuffix(".md")
            text = f"---\norphan: true\n---\n\n# Guidance curves: {title}\n\n{text}"
        pages[name] = text
    return pages


def _on_source(app, docname: str, source: list[str]) -> None:
    """Links of the pages that are read in the checkout as well."""
    if not docname.startswith("generated/"):
        source[0] = rewrite_links(source[0], DOCS, DOCS)


def rewrite_links(text: str, before: pathlib.Path, after: pathlib.Path) -> str:
    """Moves a page from the folder `before` to `after`.

    A link to a file of COPIED becomes one to its page. A folder has no page, so of a
    link to it the text stays.
    """

    def moved(match: re.Match) -> str:
        label, place, anchor = match[1], match[2], match[3] or ""
        path = (before / place).resolve()
        if not path.exists():
            return match[0]
        if path.is_dir():
            return label.removeprefix("[").removesuffix("]")
        known = path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix()
        if known in COPIED:
            path = GENERATED / COPIED[known]
        elif path == ROOT / "README.md":
            path = DOCS / "index.md"
        return f"{label}({os.path.relpath(path, after)}{anchor})"

    link = r"(!?\[[^\]]*\])\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)"
    return re.sub(link, moved, text)


def verbs_page() -> str:
    """The reference of the verbs, from their docstrings and flags."""
    from glide_jax.cli import main

    lines = [
        "# Verbs",
        "",
        "`glide VERB --help` shows the same in a terminal. Flags are written",
        "`--flag=value`; a switch is written `--flag` or `--noflag`. The",
        "[exit codes](../reliability.md#exit-codes) are those of every verb.",
    ]
    for group, verbs in main.VERB_GROUPS.items():
        lines += ["", f"## {group.capitalize()}"]
        for verb, meaning in verbs.items():
            lines += ["", f"### glide {verb}", "", f"{escape(meaning).capitalize()}."]
            # The first paragraph of the docstring is the same sentence.
            _, _, text = (inspect.getdoc(main.module_of(verb)) or "").partition("\n\n")
            lines += ["", *_docstring(text)]
            lines += _flag_table(main, verb)
    return "\n".join(lines) + "\n"


def _docstring(text: str) -> list[str]:
    """A docstring as Markdown: indented blocks as code, the rest escaped."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        if re.match(r" {2,}\S", block) or re.search(r"\S {3,}\S", block):
            lines += ["```", *textwrap.dedent(block).splitlines(), "```", ""]
        else:
            lines += [escape(block), ""]
    return lines


def _flag_table(main, verb: str) -> list[str]:
    values = flags.FlagValues()
    main.module_of(verb).define_flags(values)
    rows = []
    for name in sorted(values):
        flag = values[name]
        if "." in name or name != flag.name:
            continue
        shown = f"--[no]{name}" if flag.boolean else f"--{name}"
        default = flag.default
        given = "" if default in (None, "", []) else f"`{default}`"
        # absl adds a line to the help of a flag that may be repeated.
        meaning = escape(" ".join((flag.help or "").split()))
        rows.append(f"| `{shown}` | {given} | {meaning} |")
    return ["| flag | default | meaning |", "|---|---|---|", *rows] if rows else []


def escape(text: str) -> str:
    """Markdown that shows the text as it is, with its code in backticks."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part.replace("|", "\\|")
        if i % 2
        else re.sub(r"([\\*_|<>\[\]$#{}~])", r"\\\1", part)
        for i, part in enumerate(parts)
    )


def api_pages() -> dict[str, str]:
    """A page for each folder of the package, and one for its top-level modules."""
    from plain_docstrings import module_names

    parts: dict[str, list[str]] = {}
    for name in module_names():
        _, _, rest = name.partition(".")
        part, _, inner = rest.partition(".")
        is_folder = inner or hasattr(importlib.import_module(name), "__path__")
        parts.setdefault(part if part and is_folder else "", []).append(name)
    order = {part: i for i, part in enumerate(ORDER)}
    folders = sorted(filter(None, parts), key=lambda p: (order.get(p, len(order)), p))
    pages = {
        f"api/{part}.md": _api_page(f"{PACKAGE}.{part}", parts[part])
        for part in folders
    }
    pages["api/top.md"] = _api_page(PACKAGE, parts[""])
    summary = "\n".join(
        f"| [{PACKAGE}.{part}]({part}.md) | {escape(_summary(f'{PACKAGE}.{part}'))} |"
        for part in folders
    )
    toctree = "\n".join(["top", *folders])
    pages["api/index.md"] = API_INDEX.format(summary=summary, toctree=toctree)
    return pages


API_INDEX = """# API

{{py:class}}`glide_jax.Glide <glide_jax.sample.cascade.Glide>` is the entry point for
sampling in Python, and {{py:meth}}`Glide.load <glide_jax.sample.models.Models.load>`
reads its models from bundles. Every public name of every module is described on the
page of its folder; names that begin with an underscore are private.

| folder | contents |
|---|---|
{summary}

The pages are written from the docstrings when the documentation is built.

```{{toctree}}
:hidden:

{toctree}
```
"""


def _summary(name: str) -> str:
    text = inspect.getdoc(importlib.import_module(name)) or ""
    return " ".join(text.split("\n\n")[0].split())


def _api_page(title: str, modules: list[str]) -> str:
    lines = [f"# {title}"]
    for name in modules:
        if name != title:
            lines += ["", f"## {name.removeprefix(f'{PACKAGE}.')}"]
        # A folder's own module has no names, so only its docstring is shown.
        options = [":no-members:"] if name == title and name == PACKAGE else []
        lines += ["", "```{eval-rst}", f".. automodule:: {name}"]
        lines += [*(f"   {option}" for option in options), "```"]
    return "\n".join(lines) + "\n"


def write_tables() -> None:
    """Writes the tables of options and samplers between the marks in sampling.md."""
    from glide_jax.sample import options

    page = DOCS / "sampling.md"
    before, rest = page.read_text().split("<!-- tables -->\n")
    _, after = rest.split("<!-- end of tables -->\n")
    tables = f"<!-- tables -->\n{options.to_markdown()}<!-- end of tables -->\n"
    page.write_text(before + tables + after)


if __name__ == "__main__":
    write_tables()

"""The floors of the package, read from its syntax trees.

Floor 0 imports nothing of ours but floor 0; each higher floor only what lies below it,
and its own folder. What a function imports when it is called counts as well.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import pathlib
from collections.abc import Iterator
from typing import Any

PACKAGE = pathlib.Path(__file__).parents[1] / "glide_jax"

FLOORS = (
    ("errors", "array_types", "presets", "runtime", "config", "text", "diffusion"),
    ("models", "data", "parallel", "checkpoint"),
    ("train", "sample", "convert", "plan"),
    ("eval", "bench", "study"),
    # hooks/ joins train/ with sample/ and eval/. quickstart/ and distil/ are programs
    # of their own: they train, sample and measure. sweep/ starts programs and reads
    # what they leave. serve/ puts sample/ behind HTTP, demo/ behind a page; it queues
    # and listens by parts of serve/. prepare/ reads pairs and scores them with models.
    ("hooks", "quickstart", "distil", "sweep", "serve", "demo", "prepare"),
    ("cli",),
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
# Floors whose parts are strangers to each other. The others may lean on a sibling.
INDEPENDENT_FLOORS = (1, 2)
# But these: a plan is of a training run or of a sampler; what is restored is compared
# by digests of what lies on the devices.
ALLOWED_PAIRS = {("plan", "train"), ("plan", "sample"), ("checkpoint", "parallel")}

# Where a library may be imported: it stops there.
HOMES = {
    "flax": ("models", "convert"),
    "orbax": ("checkpoint",),
    "absl": ("cli",),
    "grain": ("data",),
    "tensorflow_datasets": ("data",),
    "pyarrow": ("data", "prepare"),
    "apache_beam": ("prepare",),
    "sklearn": ("prepare",),
    "py3langid": ("prepare",),
    "resvg_py": ("data",),
    "matplotlib": ("eval", "study", "sweep"),
    "optax": ("train",),
    "fastapi": ("serve", "demo"),
    "starlette": ("serve",),
    "uvicorn": ("serve",),
    "gradio": ("demo",),
    "prometheus_client": ("serve",),
    "ml_collections": ("config", "cli"),
    "tensorflow": (),
    "torch": ("convert",),
}


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def modules() -> dict[str, pathlib.Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


# The package itself is a door: it names `Glide` and imports it at its first use.
MODULES = {name: path for name, path in modules().items() if name != "glide_jax"}


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported, anywhere in the tree.

    `from glide_jax.data import order` is an import of glide_jax.data.order, and one of
    `from glide_jax.config.defaults import Config` of glide_jax.config.defaults.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in MODULES else node.module)
    return names


def part_of(module: str) -> str:
    """The folder or top-level module below glide_jax; "" for the package itself."""
    return module.removeprefix("glide_jax").removeprefix(".").split(".")[0]


def our_imports(module: str) -> set[str]:
    return {
        name
        for name in imported(parse(MODULES[module]))
        if name.split(".")[0] == "glide_jax" and name != "glide_jax"
    }


def test_every_module_stands_on_a_floor():
    parts = {part_of(module) for module in MODULES}
    assert parts == FLOOR_OF.keys()


def test_a_module_imports_only_lower_folders_and_known_libraries():
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in our_imports(module)
        if not may_import(part_of(module), part_of(name))
    ]
    assert wrong == []


def may_import(here: str, there: str) -> bool:
    if there == here or (here, there) in ALLOWED_PAIRS:
        return True
    above, below = FLOOR_OF[here], FLOOR_OF[there]
    return below < above or (below == above and above not in INDEPENDENT_FLOORS)


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: our_imports(module) - {module} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, naming it


def test_a_library_is_imported_at_its_home_only():
    wrong = [
        f"{module} imports {library}"
        for module, path in MODULES.items()
        for library in {name.split(".")[0] for name in imported(parse(path))}
        if library in HOMES and part_of(module) not in HOMES[library]
    ]
    assert wrong == []


def test_only_commands_print():
    wrong = [
        f"{module}:{node.lineno}"
        for module, node in nodes(ast.Call)
        if part_of(module) != "cli"
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert wrong == []


# Locks and scratch folders rename by rules of their own.
RENAMING = ("runtime.files", "runtime.locks", "runtime.scratch_dirs")


def test_only_one_module_renames_files():
    """A file or folder appears under its name by `runtime.files`."""
    wrong = [
        f"{module}:{node.lineno}"
        for module, node in nodes(ast.Call)
        if module.removeprefix("glide_jax.") not in RENAMING and is_renaming(node)
    ]
    assert wrong == []


# The run.py of an exported program writes pictures without this package.
PLAIN_WRITES = ("sample.program_runner",)


def test_files_appear_complete():
    """A text or bytes is written by `runtime.files`, never in place under its name."""
    wrong = [
        f"{module}:{node.lineno}"
        for module, node in nodes(ast.Call)
        if part_of(module) != "runtime"
        and module.removeprefix("glide_jax.") not in PLAIN_WRITES
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("write_text", "write_bytes")
        and ast.unparse(node.func.value) != "files"
    ]
    assert wrong == []


def is_renaming(node: ast.Call) -> bool:
    """Whether the call is one of os.replace, os.rename, or those of pathlib.Path."""
    if not isinstance(node.func, ast.Attribute):
        return False
    owner, name = ast.unparse(node.func.value), node.func.attr
    if owner == "os":
        return name in ("replace", "rename", "link")
    # str.replace takes two arguments, dataclasses.replace takes fields by name.
    is_path = len(node.args) == 1 and not node.keywords
    return is_path and name in ("replace", "rename") and owner != "files"


def test_no_handler_catches_everything():
    everything = ("Exception", "BaseException")
    wrong = [
        f"{module}:{node.lineno}"
        for module, node in nodes(ast.ExceptHandler)
        if node.type is None or ast.unparse(node.type) in everything
    ]
    assert wrong == []


def test_a_module_says_what_it_answers_and_stays_short():
    wrong = [
        module
        for module, path in MODULES.items()
        if not ast.get_docstring(parse(path)) or path.read_text().count("\n") > 400
    ]
    assert wrong == []


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, Any]]:
    """Every node of a kind with the module that it stands in."""
    for module, path in MODULES.items():
        for node in ast.walk(parse(path)):
            if isinstance(node, kind):
                yield module, node

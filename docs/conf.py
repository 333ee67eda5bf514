"""Configuration of the documentation: Sphinx with MyST pages.

    sphinx-build -W --keep-going -b html docs docs/_build

The pages of the API and of the verbs are written to docs/generated/ before each build,
from the docstrings and the flags of the package in the same checkout.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import sys

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]
# The kernel of the notebook is another process.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import plain_docstrings  # noqa: E402
from sphinx.ext.autodoc.mock import mock  # noqa: E402

import glide_jax  # noqa: E402

# The extra [docs] does not have these: Apache Beam has an environment of its own
# (docs/data_preparation.md), and gradio is large. The modules that use them are
# imported without them, and stay imported.
with mock(["apache_beam", "gradio"]):
    for name in plain_docstrings.module_names():
        if name.startswith(("glide_jax.prepare", "glide_jax.demo")):
            importlib.import_module(name)

project = "glide_jax"
author = "The glide_jax authors"
copyright = author
version = release = glide_jax.__version__

extensions = [
    "sphinx.ext.autodoc",
    "generated_pages",
    "plain_docstrings",
    "myst_nb",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
]
exclude_patterns = [
    "_build",
    "_ext",
    ".jupyter_cache",
    "jupyter_execute",
    "**.ipynb_checkpoints",
]

# Two modules may have a private class of one name in an annotation.
suppress_warnings = ["ref.python"]

# MyST
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_allow_labels = True
math_numfig = True
numfig = True
math_eqref_format = "({number})"

# Notebooks: executed at each build whose sources differ, in a few seconds.
nb_execution_mode = "cache"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True

# As written: quotes and double hyphens are part of commands.
smartquotes = False
highlight_language = "none"

# API
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "member-order": "bysource",
    "exclude-members": "__weakref__, __new__, __init__",
}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

# HTML
html_theme = "sphinx_book_theme"
html_title = "glide_jax"
html_static_path = ["_static"]
html_css_files = ["glide.css"]
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navbar_persistent": [],  # otherwise a second search box
}
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True

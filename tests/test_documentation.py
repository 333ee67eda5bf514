"""Links of the documentation lead somewhere, and its commands name flags that exist."""

from __future__ import annotations

import re
import shlex

import pytest

from glide_jax.cli import main
from glide_jax.config import defaults, resolve
from tests import fake_devices

ROOT = fake_devices.ROOT
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def anchors(text: str) -> set[str]:
    """The names by which headings are linked."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for place, anchor in links:
        target = page.parent / place if place else page
        assert target.exists(), place
        assert not anchor or anchor in anchors(target.read_text()), (place, anchor)


def commands() -> list[str]:
    """The lines of all pages' blocks that start with `glide`, each whole."""
    # Every second part of a page lies between two fences.
    blocks = [
        block
        for page in PAGES
        for block in re.split(r"^ *```\w*$", page.read_text(), flags=re.MULTILINE)[1::2]
    ]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parts = (part for line in lines for part in line.split("&&"))
    return [part.strip() for part in parts if re.match(r"\s*glide [a-z]", part)]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_a_page_names_a_verb_its_flags_and_settings(command):
    _, *words = shlex.split(command)
    verb = " ".join(words[:2]) if " ".join(words[:2]) in main.VERBS else words[0]
    values = main.flags.FlagValues()
    main.module_of(verb).define_flags(values)
    given = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    for name in given:
        if name.startswith("config."):
            resolve.check_key(defaults.Config(), name.removeprefix("config."))
        else:
            assert name in values


def test_the_pages_have_commands():
    assert len(commands()) > 20

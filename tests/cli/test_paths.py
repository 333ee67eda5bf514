"""Paths in flags, settings, and variables: `~` is expanded and URLs are refused."""

from __future__ import annotations

import importlib
import re

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.cli import config_flag, main
from glide_jax.data import tfds_records
from glide_jax.eval import extractors, reference_files
from glide_jax.runtime import user_cache
from glide_jax.sample import cascade
from glide_jax.text import tokenizers, vocabulary
from glide_jax.train import init_from
from tests.eval import stand_in

# Flags that hold a path although their help does not say folder, file, or bundle.
ALSO_PATHS = {"image", "mask", "key", "features"}
NO_PATHS = {("convert", "kind"), ("sweep", "image")}
# Parsers of flags that hold no path whatever their help says.
NO_TEXT = ("EnumParser", "BooleanParser", "IntegerParser", "FloatParser", "ListParser")
# What a flag of another kind needs in front of the path.
KINDS = {"features": "clip:"}


def flags_of(verb: str) -> main.flags.FlagValues:
    module = importlib.import_module(f"glide_jax.cli.{verb.replace(' ', '_')}")
    values = main.flags.FlagValues()
    module.define_flags(values)
    return values


def path_flags() -> list[tuple[str, str]]:
    """Verb and name of the flags whose help names a folder, a file, or a bundle."""
    found = []
    for verb in main.VERBS:
        values = flags_of(verb)
        for name in values:
            # "folder:DIR" is a data source, "the bundle's" no bundle.
            if (verb, name) in NO_PATHS:
                continue
            says = re.search(r"\b(folder|file|bundle)\b(?!:|')", values[name].help)
            is_text = type(values[name].parser).__name__ not in NO_TEXT
            if is_text and (says or name in ALSO_PATHS):
                found.append((verb, name))
    return found


def test_the_path_flags_are_found():
    found = path_flags()
    assert len(found) > 40
    assert {("train", "workdir"), ("sweep", "root"), ("convert", "input")} <= {*found}


@pytest.mark.parametrize(("verb", "name"), path_flags())
def test_every_path_flag_expands_the_home_folder_and_refuses_urls(
    verb, name, monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    kind = KINDS.get(name, "")
    for url in ("hf://bucket/x", "https://host/x"):
        with pytest.raises(errors.UserError, match=rf"^--{name}={url} is a URL"):
            main.parse(flags_of(verb), ["glide", f"--{name}={kind}{url}"])
    values = flags_of(verb)
    if config_flag.is_one(values[name]):
        return  # read when it is parsed; see below
    main.parse(values, ["glide", f"--{name}={kind}~/x"])
    found = values[name].value
    assert values[name].serialize() == f"--{name}={kind}{tmp_path}/x"
    found = found[0] if isinstance(found, list) else found
    assert found == f"{kind}{tmp_path}/x"


def test_a_configuration_in_the_home_folder_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(size): return ConfigDict({'name': size, 'seed': 0})\n"
    )
    values = flags_of("train")
    main.parse(values, ["glide", "--config=~/own.py:tiny", "--config.seed=3"])
    assert (values.config.name, values.config.seed) == ("tiny", 3)


@pytest.mark.parametrize("spec", ["shapes:quickstart", "folder:~/x", "tfds:a?split=b"])
def test_a_data_source_in_a_flag_of_pictures_is_left_to_its_reader(spec):
    values = flags_of("evaluate")
    main.parse(values, ["glide", f"--images={spec}"])
    assert values.images == spec


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["export", "https://bucket/run"], "workdir=https://bucket/run"),
        (["verify", "https://bucket/run"], "folder=https://bucket/run"),
        (["sweep", "hf://x/sweep.py", "--root=r"], "sweep file=hf://x/sweep.py"),
        (["sample", "--prompt=x", "--output=https://b/o"], "--output=https://b/o"),
        (["sample", "--prompt=x", "--output=~nobody_here/o"], "not a user"),
        (
            ["train", "--config=https://b/c.py:tiny", "--workdir=w"],
            "--config=https://b/c.py",
        ),
        (["data", "build", "--output=o", "--source=tfds:https://b/x"], "https://b/x"),
    ],
)
def test_a_url_is_one_line_and_nothing_is_made(refused, argv, named):
    assert named in refused(*argv)


@pytest.mark.parametrize("field", ["train.init_from", "data.tokenizer"])
def test_a_url_in_a_setting_is_one_line_and_nothing_is_made(refused, experiment, field):
    line = refused(
        "train",
        f"--config={experiment}",
        "--workdir=w",
        f"--config.{field}=https://b/x",
    )
    assert f"{field}=https://b/x is a URL" in line


READERS = {
    "base": cascade.Glide.load,
    "run": init_from.load,
    "settings": init_from.read_config,
    "tokenizer": tokenizers.make_tokenizer,
    "clip": lambda path: extractors.load(f"clip:{path}"),
    "inception": lambda path: extractors.load(f"inception:{path}"),
    "efficientnet": lambda path: extractors.load(f"efficientnet_lite0:{path}"),
    "reference": lambda path: reference_files.read(path, stand_in.QuarterMeans(), 8),
    "tfds": tfds_records.TfdsRecords,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_the_library_refuses_urls_too(read):
    with pytest.raises(errors.UserError, match=r"=https://bucket/absent is a URL"):
        read("https://bucket/absent")


def test_the_library_reads_from_the_home_folder(workdir, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(workdir.parent))
    assert READERS["base"]("~/base/bundle").base.folder == workdir / "bundle"
    assert READERS["run"]("~/base").step == 1
    assert (
        READERS["settings"]("~/base/bundle").name
        == READERS["settings"](str(workdir)).name
    )
    assert READERS["tokenizer"]("~/base/tokenizer").vocab_size > 0
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").write_text("")
    with pytest.raises(errors.UserError, match=r"w\.pth is not"):
        READERS["inception"]("~/w.pth")
    np.savez(tmp_path / "r.npz", a=np.zeros(1))
    with pytest.raises(errors.UserError, match=r"r\.npz was made with no features"):
        READERS["reference"]("~/r.npz")


def test_the_folders_of_variables_may_be_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(user_cache.FOLDER_VARIABLE, "~/kept")
    assert user_cache.folder() == tmp_path / "kept"
    monkeypatch.setenv(vocabulary.FOLDER_VARIABLE, "~/vocab")
    (tmp_path / "vocab").mkdir()
    (tmp_path / "vocab" / "vocab.bpe").write_text("")
    assert vocabulary.find(vocabulary.GPT2_MERGES) == tmp_path / "vocab" / "vocab.bpe"
    for name in (user_cache.FOLDER_VARIABLE, vocabulary.FOLDER_VARIABLE):
        monkeypatch.setenv(name, "https://bucket/x")
        with pytest.raises(errors.UserError, match=f"{name}=https://bucket/x is a URL"):
            vocabulary.find(vocabulary.GPT2_MERGES)
        monkeypatch.delenv(name)

"""The documentation: links, references and commands are valid, and commands run.

A command of a page is run at toy size, or by its dry run, or only parsed where it needs
what a test machine lacks. `HOW` has the choice and its reason.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from PIL import Image

from glide_jax import presets
from glide_jax.checkpoint import bundle
from glide_jax.cli import main
from glide_jax.config import defaults, preparation, resolve
from glide_jax.data import shapes_world
from glide_jax.demo import ballot
from glide_jax.models import build
from glide_jax.runtime import metric_writers
from glide_jax.text import sentencepiece_tokenizer, tokenizers
from tests import fake_devices
from tests.launch import launchers

ROOT = fake_devices.ROOT
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "experiments" / "README.md",
    *sorted(DOCS.glob("*.md")),
]
TUTORIAL = DOCS / "tutorial.md"

# Data and bundles that only the reader has, or that another page makes.
LACKING = ("SOURCE", "runs/icons", "runs/judge", "coco")
LACKING += ("runs/base64_cfg", "efficientnet")

# How a command is checked, by the first words that fit; all of them are parsed.
HOW = {
    "train": "dry run",
    "plan": "as it is",
    "help": "as it is",
    "sample": "at toy size",
    "inpaint": "at toy size",
    "edit": "at toy size",
    "upsample": "at toy size",
    "serve": "parsed",  # it runs until a signal; see tests/serve
    "demo": "parsed",  # as serve; see tests/demo
    "benchmark serve": "parsed",  # see tests/serve
    "benchmark train": "parsed",  # see tests/cli/test_benchmark.py
    "data check": "at toy size",
    "evaluate reference": "at toy size",
    "evaluate pairs": "at toy size",
    "evaluate elo": "at toy size",
    "evaluate neighbours": "at toy size",
    "evaluate --curves": "parsed",  # of a finished sweep; see tests/sweep
    "evaluate": "at toy size",
    "sweep experiments/sweeps/guidance_scale.py": "parsed",  # its --base is a word
    "sweep experiments/sweeps/warmup.py": "parsed",  # the reader writes the file
    "sweep experiments": "printed",
    "sweep": "parsed",  # --status and --report of a sweep that has run
    "export": "parsed",  # of a trained workdir: the tutorial's are run
    "distil": "parsed",  # see tests/distil
    "convert": "parsed",  # PyTorch is optional; see tests/cli/test_convert.py
    "data icons": "parsed",  # downloads packages of npm and apt
    "data prepare": "parsed",  # Apache Beam is optional; see tests/prepare
}


def anchors(text: str) -> set[str]:
    """The names by which headings are linked."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for place, anchor in links:
        target = page.parent / place if place else page
        assert target.exists() or place.startswith("generated/"), place
        assert not anchor or anchor in anchors(target.read_text()), (place, anchor)


def test_linked_pages_and_copied_pages_are_part_of_the_build():
    path = DOCS / "_ext" / "generated_pages.py"
    spec = importlib.util.spec_from_file_location("generated_pages", path)
    assert spec
    assert spec.loader
    generated_pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated_pages)
    index = (DOCS / "index.md").read_text()
    known = {ROOT / source for source in generated_pages.COPIED}
    known |= {*DOCS.glob("*.md"), ROOT / "README.md"}
    written = {
        generated_pages.GENERATED / name for name in ("verbs.md", "api/index.md")
    }
    written |= {generated_pages.GENERATED / n for n in generated_pages.COPIED.values()}
    for page in known:
        for place in re.findall(r"\]\((?!https?:|#)([^)#]*\.md)", page.read_text()):
            target = (page.parent / place).resolve()
            assert target in known | written, place
    for name in generated_pages.COPIED.values():
        assert name.startswith("curves_") or f"\ngenerated/{name[:-3]}\n" in index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_have_an_alternative_text(page):
    text = page.read_text()
    assert "![](" not in text
    for options in re.findall(r"```\{(?:image|figure)\}(.*?)```", text, re.DOTALL):
        assert ":alt: " in options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_cross_references_name_objects_of_the_package(page):
    role = r"\{py:(\w+)\}`(?:[^`<]*<)?~?([\w.]+)>?`"
    for kind, name in re.findall(role, page.read_text()):
        if kind == "mod":
            importlib.import_module(name)
        else:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"^[a-z_/]+$", index, re.MULTILINE))
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= listed


def blocks(page: pathlib.Path) -> list[tuple[str, str]]:
    """(language, text) of the code blocks of a page."""
    fence = r"^( *)```(\w*)\n(.*?)^\1```$"
    found = re.finditer(fence, page.read_text(), re.DOTALL | re.MULTILINE)
    return [(match[2], textwrap.dedent(match[3])) for match in found]


def shell_lines(page: pathlib.Path) -> list[str]:
    """The commands of a page, each whole, without comments."""
    text = "\n".join(text for language, text in blocks(page) if not language)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    parts = (part for line in lines for part in line.split("&&"))
    return [part.partition(" #")[0].strip() for part in parts if part.strip()]


def commands(*pages: pathlib.Path) -> list[str]:
    """The commands of these pages that start with `glide`, each once."""
    found = {
        line: None
        for page in pages or PAGES
        for line in shell_lines(page)
        if re.match(r"glide [a-z]", line)
    }
    return list(found)


def how(command: str) -> str:
    """How a command is checked, a value of HOW."""
    if "-bucket/" in command:  # see tests/stores
        return "parsed"
    words = command.removeprefix("glide ")
    return next(HOW[start] for start in HOW if f"{words} ".startswith(start))


def checked(*ways: str) -> list[str]:
    return [command for command in commands() if how(command) in ways]


def test_the_pages_have_commands():
    assert len(commands()) > 40
    assert set(HOW.values()) == {how(command) for command in commands()}


@pytest.mark.parametrize("command", commands())
def test_a_command_of_a_page_names_a_verb_its_flags_and_settings(command):
    _, *words = shlex.split(command)
    if words[0] == "help":
        return
    verb = " ".join(words[:2]) if " ".join(words[:2]) in main.VERBS else words[0]
    if "--" in words:  # a sweep; what follows are flags of its runs
        words = words[: words.index("--")]
    values = main.flags.FlagValues()
    main.module_of(verb).define_flags(values)
    given = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    for name in given:
        if "." in name:  # a setting, of --config or of another configuration
            setting = name.partition(".")[2]
            if verb == "data prepare":
                assert setting in preparation.flat(preparation.PrepareConfig())
            else:
                resolve.check_key(defaults.Config(), setting)
        else:
            assert name in values


def test_the_launchers_of_the_pages_exist_and_their_dry_runs_pass():
    lines = {
        re.sub(r"^\./", "", line)
        for page in PAGES
        for line in shell_lines(page)
        if re.match(r"(\./)?launch/\w+\.sh", line)
    }
    assert len(lines) > 5
    engines = {command[0] for command in launchers.COMMANDS.values()}
    for line in lines:
        script, *words = shlex.split(line)
        assert (ROOT / script).stat().st_mode & 0o100, script
        name = script.removeprefix("launch/")
        if name in engines:
            extra = [] if words[0] in ("status", "stop") else ["--nocheck"]
            result = launchers.run((name, *words, "--dry_run", *extra))
            assert result.returncode == 0, result.stderr


# Where the commands of pages are run.


@pytest.fixture(scope="module")
def tokenizer():
    source = shapes_world.ShapesWorld("quickstart")
    captions = [source[i].caption for i in range(100)]
    proto = sentencepiece_tokenizer.train_sentencepiece(captions, 384)
    return sentencepiece_tokenizer.SentencePieceTokenizer(proto)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tokenizer) -> pathlib.Path:
    """A folder with what the pages name: pictures, masks, and bundles of toy size."""
    folder = tmp_path_factory.mktemp("world")
    write_bundles(folder, tokenizer)
    for split, name in (("train", "photos"), ("held_out", "photos_held_out")):
        source = shapes_world.ShapesWorld("quickstart", split).at_px(64)
        (folder / name).mkdir()
        for i in range(16):
            Image.fromarray(source[i].image).save(folder / name / f"{i}.png")
            (folder / name / f"{i}.txt").write_text(source[i].caption)
    shutil.copy(folder / "photos" / "0.png", folder / "photo.png")
    hole = np.zeros((64, 64), np.uint8)
    hole[20:40, 20:40] = 255
    Image.fromarray(hole).save(folder / "hole.png")
    return folder


def write_bundles(folder: pathlib.Path, tokenizer) -> None:
    """Bundles of the tiny size with random weights, under every name of the pages."""
    quickstart = "runs/quickstart/bundles"
    # One level: most of the time is compilation.
    one_level = {"channel_mult": (1,), "attention_px": ()}
    base, upsampler = presets.base("tiny"), presets.upsampler("tiny")
    base = dataclasses.replace(base, **one_level)
    upsampler = dataclasses.replace(upsampler, **one_level)
    sizes = {
        (
            f"{quickstart}/base_cfg",
            "runs/cfg/bundle",
            "runs/distil/bundles/base_4",
            "models/base",
            "runs/finetuned/bundle",
        ): base,
        (
            f"{quickstart}/upsampler",
            "runs/up/bundle",
            "runs/distil/bundles/upsampler_2",
            "models/up",
        ): upsampler,
        (f"{quickstart}/noised_clip", "runs/clip/bundle", "models/clip"): (
            presets.noised_clip("tiny")
        ),
        ("runs/inpaint/bundle",): dataclasses.replace(base, inpaint=True),
        ("runs/up_inpaint/bundle",): dataclasses.replace(upsampler, inpaint=True),
    }
    tokenizers.save(tokenizer, folder / "tokenizer")
    files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    for names, model in sizes.items():
        config = defaults.Config(
            model=model, sample=defaults.SampleConfig(respacing="3")
        )
        is_clip = isinstance(model, defaults.NoisedClipConfig)
        fns = build.make_clip(model) if is_clip else build.make_denoiser(model)
        shapes = jax.eval_shape(fns.init, jax.random.key(0))
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf, rng=rng: rng.normal(0, 0.05, leaf.shape).astype(np.float32),
            shapes,
        )
        text = resolve.to_json(config)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            bundle.write_bundle(folder / name, params, text, files, "A toy model.")


def words_at_toy_size(command: str, output: pathlib.Path) -> list[str]:
    """The words after `glide`, with few pictures and an output of their own."""
    _, *words = shlex.split(command)
    least = {"num_images": 2, "max_images": 16, "num_captions": 2}
    few = []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if name in least and equals:
            value = str(least[name])
        if name == "output":
            value = str(output) + pathlib.Path(value).suffix
        few.append(f"--{name}{equals}{value}" if word.startswith("--") else word)
    return few


@pytest.mark.parametrize("command", checked("dry run"))
def test_training_commands_pass_their_dry_run(command, capsys):
    # As for another machine, where the data and the earlier phases lie.
    words = shlex.split(command)[1:]
    words = [word for word in words if word != "--dry_run"]
    assert main.run([*words, "--dry_run", "--devices=1"]) == 0
    assert "parameters:" in capsys.readouterr().out


@pytest.mark.parametrize("command", checked("printed"))
def test_sweeps_pass_their_checks_and_print_their_runs(command, tmp_path, capsys):
    words = [w for w in shlex.split(command)[1:] if not w.startswith("--parallel")]
    words[1] = str(ROOT / words[1])
    words = [re.sub("^--root=.*", f"--root={tmp_path / 'root'}", w) for w in words]
    assert main.run([*words, "--runner=print"]) == 0
    assert "--only=" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", checked("as it is"))
def test_other_commands_run_as_they_are(command, capsys):
    # Compilers for other chips start in a process of their own:
    # tests/plan/test_compile_phases.py.
    words = [word for word in shlex.split(command)[1:] if word != "--compile"]
    assert main.run(words) == 0
    assert capsys.readouterr().out


@pytest.fixture(scope="module")
def drawn(world) -> pathlib.Path:
    """The world with the samples that the commands of the study compare."""
    for name, scale in (("cfg", 3), ("clip", 1)):
        words = [
            *("sample", f"--base={world}/runs/cfg/bundle", "--num_images=2"),
            *("--prompt=a red circle", f"--guidance_scale={scale}"),
            f"--output={world}/out/{name}",
        ]
        assert main.run(words) == 0
    words = [f"--samples={world}/out/{name}" for name in ("cfg", "clip")]
    assert main.run(["evaluate", "pairs", *words, f"--output={world}/out/study"]) == 0
    sheet = next((world / "out" / "study" / "rater").glob("*.csv"))
    first, *rows = sheet.read_text().splitlines()
    # Each side wins once, as ratings need.
    answered = [row + ("left", "right")[i % 2] for i, row in enumerate(rows)]
    (world / "answers.csv").write_text("\n".join([first, *answered]))
    (world / "out/demo").mkdir()
    votes = ballot.Ballot(world / "out/demo")
    pair = ballot.Pair("cfg", "clip", (0, 1), "1", "a red circle")
    for answer in ("left", "right"):
        votes.add(pair, answer, "photorealism")
    words = [
        *("evaluate", "reference", "--source=shapes:quickstart", "--px=16"),
        f"--features=clip:{world}/runs/clip/bundle",
        "--max_images=16",
        f"--output={world}/ref.npz",
    ]
    assert main.run(words) == 0
    return world


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        command
        for command in checked("at toy size")
        if command not in commands(TUTORIAL)  # run below
        and not any(word in command for word in LACKING)
    ],
)
def test_commands_run_at_toy_size(command, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(drawn)
    assert main.run(words_at_toy_size(command, tmp_path / "output")) == 0


@pytest.mark.slow
def test_python_of_the_pages_runs(drawn, monkeypatch):
    monkeypatch.chdir(drawn)
    for page in PAGES:
        for language, text in blocks(page):
            if language == "python" and page != TUTORIAL:
                code = compile(text, page.name, "exec")
                if "import torch" not in text and "import json, torch" not in text:
                    exec(code, {})


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for language, text in blocks(TUTORIAL):
        if language == "python":
            exec(compile(text, "tutorial.md", "exec"), {})
        for line in re.sub(r"\\\n\s*", "", "" if language else text).splitlines():
            words = shlex.split(line)[1:]
            if words[0] == "train":
                words = [w for w in words if "num_steps" not in w]
                words += ["--config.train.num_steps=2", "--config.sample.respacing=3"]
                words += ["--config.log.validation_examples=4"]
                if "clip" not in words[1]:  # one level: most of the time is compilation
                    words += ["--config.model.channel_mult=(1,)"]
                    words += ["--config.model.attention_px=()"]
            words = [re.sub("^--num_images=64", "--num_images=4", w) for w in words]
            assert main.run(words) == 0, line
    for phase in ("base", "cfg", "up", "clip"):
        rows = metric_writers.read_metrics(pathlib.Path("runs", phase, "metrics.jsonl"))
        assert [row["step"] for row in rows if "loss" in row] == [1, 2]
        assert all(np.isfinite(list(row.values())).all() for row in rows)
    # Real pictures above what was drawn for their captions.
    with Image.open(*pathlib.Path("runs/base/grids").iterdir()) as grid:
        assert min(grid.size) >= 2 * 16
    for name, bundles in (("circle", set()), ("clip_guided", {"clip"})):
        record = json.loads(pathlib.Path("out", name, "samples.json").read_text())
        assert record["bundles"].keys() == {"base", "upsampler"} | bundles
        assert len(record["images"]) == 4
        for entry in record["images"]:
            assert entry["prompt"] == "a large red circle on a white background"
            assert read(f"out/{name}/{entry['file']}").shape == (64, 64, 3)
            assert read(f"out/{name}/{entry['base_file']}").shape == (16, 16, 3)
    known, wider = read("out/circle/000000.png"), read("out/extended/000000.png")
    assert wider.shape == (64, 80, 3)
    np.testing.assert_array_equal(wider[:, :64], known)
    assert pathlib.Path("out/evaluation/result.json").exists()


def read(path: str) -> np.ndarray:
    """The pixels of a picture."""
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.slow
def test_the_documentation_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx_book_theme")
    # A source folder of its own, as the build writes docs/generated.
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("docs", "examples", "experiments", "glide_jax", "tests"):
        ignored = shutil.ignore_patterns("generated", "_build", "__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, checkout)
    build_command = [
        *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
        *("docs", str(tmp_path / "html")),
    ]
    result = subprocess.run(
        build_command, cwd=checkout, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    for page in ("index", "mathematics", "settings", "generated/verbs"):
        assert (tmp_path / "html" / f"{page}.html").exists()
    pictures = re.findall(
        r"<img [^>]*>", (tmp_path / "html/generated/denoising.html").read_text()
    )
    assert pictures
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)
    api = (tmp_path / "html/generated/api/diffusion.html").read_text()
    assert 'id="glide_jax.diffusion.process.q_sample"' in api

"""The set of icons, from small packages in npm's and Debian's layout."""

from __future__ import annotations

import collections
import io
import json
import os
import resource
import shutil
import signal
import tarfile

import pytest

from glide_jax.cli import main
from glide_jax.data import (
    icon_captions,
    icon_drawing,
    icon_packages,
    icon_splits,
    icons,
    sources,
    transforms,
)

pytest.importorskip("resvg_py", reason='needs pip install -e ".[icons]"')

NAMES = {
    "1f34e": ("red apple", ["fruit", "food", "health"]),
    "1f44b": ("waving hand", ["bye", "wave", "hello"]),
    "1f469-200d-1f33e": ("woman farmer", ["farmer", "garden"]),
    "1f468-200d-1f33e": ("man farmer", ["farmer", "garden"]),
}
DARK = "1f3ff"


def shape(colour, side=16):
    return f'<path fill="{colour}" d="M0 0h{side}v{side}z"/>'


def write_npm(folder, package, members):
    """A package file as `npm pack` makes it, at the known version."""
    name = f"{package.stem}{package.version}{package.suffix}"
    with tarfile.open(folder / name, "w:gz") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(f"package/{member}")
            data = json.dumps(content).encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_icons(folder, source, colour):
    """A style with an icon for each of NAMES, one with a skin tone, and one twice."""
    slugs = {name.replace(" ", "-"): code for code, (name, _) in NAMES.items()}
    bodies = {
        slug: shape(colour, side) for side, slug in enumerate(sorted(slugs), start=8)
    }
    bodies["waving-hand-dark-skin-tone"] = shape("black")
    slugs["waving-hand-dark-skin-tone"] = f"1f44b-{DARK}"
    bodies["another-apple"] = bodies["red-apple"]  # dropped for its longer name
    slugs["another-apple"] = "1f34f"
    members = {
        "icons.json": {
            "icons": {slug: {"body": body} for slug, body in bodies.items()}
            | {"old-name": {"body": shape("red"), "hidden": True}},
            "aliases": {"twin": {"parent": "red-apple"}},
            "width": 16,
            "height": 16,
        },
        "info.json": {"license": {"spdx": "MIT"}, "author": {"name": "A. Painter"}},
        "chars.json": {code: slug for slug, code in slugs.items()},
    }
    write_npm(folder, source.package, members)


CLIP_ART = """\
<svg xmlns="http://www.w3.org/2000/svg" xmlns:rdf="r" xmlns:dc="d" xmlns:cc="c"
width="{width}" height="{width}"><metadata><rdf:RDF><dc:title>{title}</dc:title>
<dc:creator><cc:Agent><dc:title>Ann Drawer</dc:title></cc:Agent></dc:creator>
<dc:subject><rdf:Bag><rdf:li>{keyword}</rdf:li><rdf:li>hash</rdf:li></rdf:Bag>
</dc:subject></rdf:RDF></metadata>{body}</svg>"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder with Noto, Twemoji and the names; nothing else is reachable."""
    monkeypatch.setenv("GLIDE_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    monkeypatch.setattr(icon_packages, "INSTALLED", tmp_path / "clip_art")
    folder = icon_packages.cache_folder()
    folder.mkdir(parents=True)
    entries = [
        {"hexcode": code.upper(), "label": name, "tags": tags}
        for code, (name, tags) in NAMES.items()
    ]
    hand = entries[1]
    tone = f"1F44B-{DARK.upper()}"
    hand["skins"] = [{"hexcode": tone, "label": "waving hand: dark skin tone"}]
    write_npm(folder, icons.EMOJIBASE, {"en/data.json": entries})
    keywords = {"\N{WAVING HAND SIGN}": ["hand_wave", "wave", "goodbye"]}
    write_npm(folder, icons.EMOJILIB, {"dist/emoji-en-US.json": keywords})
    write_icons(folder, icons.SOURCES[0], "green")
    write_icons(folder, icons.SOURCES[2], "blue")
    return folder


@pytest.fixture
def clip_art(tmp_path, cache):
    """Installed clip art: a harp, three unusable files, and a link."""
    del cache
    folder = tmp_path / "clip_art" / "music"
    folder.mkdir(parents=True)
    parts = {
        "harp_ann_drawer_01": ("Harp", shape("red")),
        "blank": ("Blank", ""),
        "letters": ("Letters", "<text>A</text>"),
        "broken": ("Broken", "<path"),
    }
    for name, (title, body) in parts.items():
        svg = CLIP_ART.format(title=title, body=body, keyword="music", width="64pt")
        (folder / f"{name}.svg").write_text(svg)
    (folder / "link.svg").symlink_to(folder / "harp_ann_drawer_01.svg")
    return folder.parent


def build(tmp_path, capsys, *options):
    """Runs the verb; returns the folder and what it printed."""
    output = tmp_path / "out"
    code = main.run(["data", "icons", f"--output={output}", *options])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return output, printed.out


def records(folder):
    """The JSON files by split, in the order of the set."""
    found = collections.defaultdict(list)
    for path in sorted(folder.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            found[path.parent.name] += [
                json.loads(tar.extractfile(name).read())
                for name in tar.getnames()
                if name.endswith(".json")
            ]
    return {name: sorted(rows, key=lambda r: r["key"]) for name, rows in found.items()}


@pytest.mark.usefixtures("clip_art")
def test_the_set_has_pictures_captions_splits_and_a_card(tmp_path, capsys):
    output, printed = build(tmp_path, capsys)
    assert "@iconify-json/openmoji is left out: npm is not installed" in printed
    assert "@iconify-json/noto has version 1.2.9 with another SHA-256" in printed
    for line in (
        "left out, Noto: 1 (it has a skin tone (--skin_tones includes them))",
        "left out, Noto: 1 (it is an old name of another emoji)",
        "left out, Noto: 1 (it equals another picture)",
        "left out, Noto: 1 (it is a further name of a picture, or mirrors one)",
        "left out, clip art: 1 (it has letters, whose font this machine may lack)",
        "left out, clip art: 1 (the file is not valid SVG)",
        "left out, clip art: 1 (it is blank)",
    ):
        assert line in printed
    found = records(output)
    each = [r for name in found for r in found[name] if name != icon_splits.SEEN]
    assert len(each) == 9  # four emoji in two styles, and the harp
    assert "red apple" in {r["name"] for r in each}
    hand = next(r for r in each if r["caption"][0] == "waving hand, in Noto style")
    assert hand["caption"] == [
        "waving hand, in Noto style",
        "waving hand as a Noto emoji",
        "hand wave, in Noto style",
        "waving hand (wave, bye, hello), in Noto style",
    ]
    assert (hand["license"], hand["author"]) == ("MIT", "A. Painter")
    harp = next(r for r in each if r["style"] == "clip art")
    assert harp["caption"][0] == "harp, in clip art style"
    assert harp["caption"][2] == "harp (music), in clip art style"
    assert harp["author"] == "Ann Drawer"
    card = (output / "README.md").read_text()
    assert "| clip art | openclipart-svg |" in card
    assert printed.splitlines()[-1].split()[1].rstrip(",") in card


def test_the_pictures_are_read_by_training_with_a_drawn_caption(
    tmp_path, cache, capsys
):
    del cache
    output, _ = build(tmp_path, capsys, "--array_records")
    train = sources.open_source(f"webdataset:{output / 'train'}?captions=random")
    image = transforms.decode(train[0])
    assert image.size == (128, 128)
    assert image.getpixel((4, 120)) == (255, 255, 255)
    assert image.getpixel((40, 4)) == (0, 128, 0)
    assert len(train[0].choices) > 1
    place = output / "records" / "icons" / "1.0.0"
    built = sources.open_source(f"tfds:{place}?split=train")
    assert len(built) == len(train)
    choices = {caption for i in range(len(train)) for caption in train[i].choices}
    assert {built[i].caption for i in range(len(built))} < choices


def test_the_same_packages_give_the_same_bytes_and_digest(tmp_path, cache, capsys):
    del cache
    first, printed = build(tmp_path / "a", capsys)
    again, reprinted = build(tmp_path / "b", capsys)
    for path in first.rglob("*"):
        if path.is_file():
            other = again / path.relative_to(first)
            assert other.read_bytes() == path.read_bytes(), path
    assert printed.splitlines()[-1] == reprinted.splitlines()[-1]
    toned, other = build(tmp_path / "c", capsys, "--skin_tones")
    assert "skin tones are included" in other.splitlines()[-1]
    assert other.splitlines()[-1].split()[1] != printed.splitlines()[-1].split()[1]
    names = {r["name"] for each in records(toned).values() for r in each}
    assert "waving hand: dark skin tone" in names


def picture(style, name):
    """A picture without pixels."""
    source = next(s for s in icons.SOURCES if s.style.name == style)
    return icons.Picture(source, name, name, (name,), "MIT", "", b"", f"{style} {name}")


def test_held_out_pairs_and_concepts_do_not_occur_in_training():
    styles = [source.style.name for source in icons.SOURCES]
    names = [f"{kind} {word}" for word in "abcdefghijklmnopqrst" for kind in "xyzuvw"]
    people = [f"{who} {name}" for who in ("man", "woman") for name in names]
    pictures = [picture(style, name) for style in styles for name in names + people]
    splits = icon_splits.split(pictures)
    train, pairs, concepts = (
        [held for _, held in splits[name]]
        for name in ("train", "val_pairs", "val_concepts")
    )
    assert sorted(p.pixels for p in train + pairs + concepts) == sorted(
        p.pixels for p in pictures
    )
    assert 0.02 < len(pairs) / len(pictures) < 0.07
    assert 0.02 < len(concepts) / len(pictures) < 0.09
    trained = {p.concept for p in train}
    trained_pairs = {(p.style, p.concept) for p in train}
    assert not trained & {p.concept for p in concepts}
    assert {p.concept for p in pairs} <= trained
    assert not trained_pairs & {(p.style, p.concept) for p in pairs}
    assert {p.style for p in pairs} <= {p.style for p in train}
    # The women farmers are held out with the men.
    assert all(len([p for p in pairs if p.concept == q.concept]) == 3 for q in pairs)
    assert {key for key, _ in splits["seen"]} < {key for key, _ in splits["train"]}


def test_clip_art_is_named_by_its_title_unless_that_is_of_a_collection():
    def art(path, title):
        svg = CLIP_ART.format(title=title, body="", keyword="k", width=1)
        return icon_captions.read_clip_art(path, svg)

    collection = [art(f"stars/star_{n}pt{n}step.svg", "gramastar") for n in range(5)]
    arts = [
        art("a/harp_01.svg", "Classical Harp 01"),
        art("a/pear.svg", "Clipart by Nicu Buculei - apple"),
        art("signs/flags/mali.svg", "mali"),
        art("a/lizard.svg", "L&amp;Atilde;&amp;copy;zard"),
        art("a/7.svg", ""),
    ]
    names = [text.name for text in icon_captions.clip_art_texts([*arts, *collection])]
    assert names[:5] == ["classical harp", "pear", "flag: Mali", "lézard", ""]
    assert names[5:] == ["star"] * 5


def test_a_drawing_on_a_large_page_fills_the_picture():
    page = '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="600">{}</svg>'
    small = page.format('<rect x="500" y="20" width="100" height="50" fill="red"/>')
    image = icon_drawing.draw(small, is_cropped=True)
    box = image.convert("L").point([255 * (v < 250) for v in range(256)]).getbbox()
    assert box is not None
    width, height = box[2] - box[0], box[3] - box[1]
    assert width == pytest.approx(120, abs=2)
    assert height == pytest.approx(60, abs=2)
    assert box[0] + box[2] == pytest.approx(128, abs=2)  # centred


def test_mistakes_and_failures_are_one_line(tmp_path, cache, capsys, monkeypatch):
    output, _ = build(tmp_path, capsys)
    command = ["data", "icons", f"--output={output}"]
    assert main.run(command) == 2
    assert "exists; remove it" in capsys.readouterr().err
    command[-1] = f"--output={tmp_path / 'other'}"
    noto = next(cache.glob("iconify-json-noto-*"))
    noto.write_bytes(noto.read_bytes()[:100])
    assert main.run(command) == 2
    assert f"{noto} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    for path in cache.iterdir():
        path.unlink()
    assert main.run(command) == 2
    assert "no package of pictures can be reached" in capsys.readouterr().err
    # A newer version is used, and said; an archive that nothing reads is left out.
    write_icons(cache, icons.SOURCES[0], "green")
    noto.rename(cache / "iconify-json-noto-9.0.0.tgz")
    (cache / "openclipart-svg_1%3a0.18_all.deb").touch()
    assert main.run(command) == 0
    printed = capsys.readouterr().out
    assert "noto has version 9.0.0, not 1.2.9" in printed
    assert "openclipart-svg is left out: dpkg-deb is not installed" in printed


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, cache, capsys):
    del cache
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        code = main.run(["data", "icons", f"--output={tmp_path / 'out'}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert (
        "out cannot be written (File too large); free disk" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_a_stopped_set_leaves_nothing(tmp_path, cache, monkeypatch):
    del cache
    whole, calls = icon_drawing.draw, []

    def draw(*arguments, **keywords):
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        calls.append(arguments)
        return whole(*arguments, **keywords)

    monkeypatch.setattr(icon_drawing, "draw", draw)
    assert main.run(["data", "icons", f"--output={tmp_path / 'out'}"]) == 42
    assert len(calls) == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_packages_give_the_known_set(tmp_path, capsys):
    if shutil.which("npm") is None or shutil.which("apt-get") is None:
        pytest.skip("npm or apt-get is not installed")
    output, printed = build(tmp_path, capsys)
    if "is left out" in printed:
        pytest.skip("a package cannot be reached")
    assert printed.endswith(f"{icon_splits.KNOWN_DIGEST} (the known set)\n"), printed
    tars = sorted(path.stem for path in output.glob("train/*.tar"))
    styles = ["fluent", "noto", "openmoji", "twemoji"]
    assert tars == ["clip_art-00000", "clip_art-00001", *(f"{s}-00000" for s in styles)]

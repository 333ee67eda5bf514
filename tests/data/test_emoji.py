"""The emoji set, from Debian's files where they are installed."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.data import emoji, tar_shards, transforms

NAMES = """\
# group: Smileys & Emotion

# subgroup: face-smiling
1F600 ; fully-qualified     # \N{GRINNING FACE} E1.0 grinning face
263A ; unqualified          # \N{WHITE SMILING FACE} E0.6 smiling face
# group: Flags
# subgroup: country-flag
1F1EE 1F1F9 ; fully-qualified # xx E0.6 flag: Italy
"""


@pytest.fixture
def names_path(tmp_path):
    path = tmp_path / "emoji-test.txt"
    path.write_text(NAMES, encoding="utf-8")
    return path


@pytest.fixture
def font():
    if not emoji.FONT_PATH.is_file():
        pytest.skip("Debian's fonts-noto-color-emoji is not installed")
    return emoji.load_font()


def test_only_fully_qualified_names_are_read_with_their_groups(names_path):
    assert emoji.read_names(names_path) == [
        emoji.Emoji((0x1F600,), "grinning face", "Smileys & Emotion", "face-smiling"),
        emoji.Emoji((0x1F1EE, 0x1F1F9), "flag: Italy", "Flags", "country-flag"),
    ]


def test_the_split_goes_by_the_name():
    for name in ("grinning face", "kissing face with closed eyes", "exploding head"):
        digest = int(hashlib.sha1(name.encode()).hexdigest(), 16)
        want = "val" if digest % 20 == 0 else "train"
        assert emoji.Emoji((1,), name, "", "").split == want
    assert emoji.Emoji((1,), "exploding head", "", "").split == "val"


@pytest.mark.parametrize("missing", ["font_path", "names_path"])
def test_a_missing_package_is_a_user_error_that_names_it(tmp_path, missing, names_path):
    paths = {"names_path": names_path, "font_path": tmp_path / "none"}
    paths[missing] = tmp_path / "nowhere"
    with pytest.raises(errors.UserError, match="apt-get install fonts-noto"):
        emoji.build_emoji(tmp_path / "out", **paths)


def test_a_file_without_emoji_is_a_user_error(tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(errors.UserError, match="unicode-data"):
        emoji.read_names(tmp_path / "empty.txt")


def test_the_set_reads_back_as_captioned_pictures_on_white(tmp_path, names_path, font):
    del font
    seen = []
    paths = emoji.build_emoji(
        tmp_path,
        names_path=names_path,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]
    source = tar_shards.TarShards(str(paths["train"]))
    assert [source[i].caption for i in range(2)] == ["grinning face", "flag: Italy"]
    face = transforms.decode(source[0])
    assert face.size == (128, 128)
    assert face.getpixel((0, 0)) == (255, 255, 255)
    red, green, blue = face.getpixel((64, 30))
    assert red > 200 > blue
    assert green > 150


def test_the_same_files_give_the_same_bytes(tmp_path, names_path, font):
    del font
    once, again = (
        emoji.build_emoji(tmp_path / name, names_path=names_path)["train"].read_bytes()
        for name in ("a", "b")
    )
    assert once == again


def test_a_joined_sequence_is_drawn_as_one_picture(font):
    flag = emoji.Emoji((0x1F1EE, 0x1F1F9), "flag: Italy", "", "")
    pixels = np.asarray(emoji.draw(flag, font))
    left, right = pixels[64, 20].astype(int), pixels[64, 108].astype(int)
    assert left[1] > left[0] + 50  # green
    assert right[0] > right[1] + 50  # red


def test_the_record_says_what_was_drawn(names_path, font):
    first = emoji.read_names(names_path)[0]
    members = dict(emoji._members("000000000", first, font))
    assert json.loads(members["000000000.json"]) == {
        "key": "000000000",
        "caption": "grinning face",
        "group": "Smileys & Emotion",
        "subgroup": "face-smiling",
        "codepoints": ["0x1f600"],
        "width": 128,
        "height": 128,
    }


@pytest.mark.slow
def test_debian_12s_packages_give_the_known_set(tmp_path, font):
    del font
    if not emoji.NAMES_PATH.is_file():
        pytest.skip("Debian's unicode-data is not installed")
    if len(emoji.read_names()) != 3655:
        pytest.skip("another version of unicode-data than 15.0")
    paths = emoji.build_emoji(tmp_path)
    train, val = (tar_shards.TarShards(str(paths[s])) for s in ("train", "val"))
    assert (len(train), len(val)) == (3466, 189)
    captions = {source[i].caption for source in (train, val) for i in range(100)}
    assert len(captions) == 200

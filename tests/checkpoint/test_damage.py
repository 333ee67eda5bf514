"""Whatever happens to a file: no wrong numbers, the step before instead, and a name."""

from __future__ import annotations

import pathlib
import random
import shutil
from collections.abc import Callable

import pytest

from glide_jax import errors
from glide_jax.checkpoint import folders, manifest, store, verify
from glide_jax.errors import UserError
from tests.checkpoint import states

RANDOM_FLIPS = 120
WANTED = states.abstract(states.make_items())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with two checkpoints; every test leaves it as it was."""
    workdir = tmp_path_factory.mktemp("run")
    states.write(workdir / "checkpoints", 10, 20)
    (workdir / "config.json").write_text("{}")
    files = manifest.hash_files(workdir, ["config.json"])
    whole = manifest.Manifest(0, manifest.now(), files, leaves={}, metrics={})
    manifest.write(workdir, whole)
    return workdir


def flip(path: pathlib.Path, position: int) -> None:
    """One bit changes."""
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_half(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: pathlib.Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def lengthen(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip_in_the_middle(path: pathlib.Path) -> None:
    flip(path, path.stat().st_size * 4)


DAMAGES = (
    flip_in_the_middle,
    truncate,
    cut_in_half,
    zero,
    lengthen,
    pathlib.Path.unlink,
)


def check_one(
    workdir: pathlib.Path, name: str, damage: Callable[[pathlib.Path], None]
) -> None:
    """Damages one file of step 20 and asks every reader."""
    path = workdir / name
    whole = path.read_bytes()
    try:
        damage(path)
        checkpoints = workdir / "checkpoints"
        restored = store.CheckpointStore(checkpoints).restore_newest(WANTED)
        assert restored.step == 10, name
        assert states.is_equal(restored.items, states.make_items(10)), name
        with pytest.raises(UserError, match="checkpoint step 20 in") as error:
            store.CheckpointStore(checkpoints).restore(20, WANTED)
        assert "\n" not in str(error.value)
        report = verify.check(workdir)
        assert report.damaged.keys() == {name}
        assert (report.good_steps, report.bad_steps) == ([10], [20])
    finally:
        path.write_bytes(whole)


def files_of(workdir: pathlib.Path, step: int) -> list[str]:
    folder = workdir / "checkpoints" / str(step)
    names = sorted(p for p in folder.rglob("*") if p.is_file())
    return [path.relative_to(workdir).as_posix() for path in names]


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_to_any_file_is_named_and_walked_past(workdir, damage):
    names = files_of(workdir, 20)
    assert len(names) >= 20
    for name in names:
        check_one(workdir, name, damage)
    assert verify.check(workdir).damaged == {}


def test_any_bit_anywhere_is_named_and_walked_past(workdir):
    seed = random.randrange(2**32)
    print("seed", seed)  # for whoever has to see this fail again
    rng = random.Random(seed)
    names = files_of(workdir, 20)
    for _ in range(RANDOM_FLIPS):
        name = rng.choice(names)
        bit = rng.randrange((workdir / name).stat().st_size * 8)
        check_one(workdir, name, lambda path, bit=bit: flip(path, bit))


def test_a_manifest_nested_beyond_all_depth_is_damaged(tmp_path):
    (tmp_path / manifest.NAME).write_text("[" * 100_000)
    with pytest.raises(manifest.DamagedError, match=r"manifest\.json is damaged"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["024", "٤", "²", "+4", "1_0", "4 "])
def test_only_the_usual_way_to_write_a_number_names_a_step(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "4").mkdir()
    assert folders.list_steps(tmp_path) == [4]


def test_every_bit_of_a_manifest_counts(workdir):
    path = workdir / "checkpoints" / "20" / manifest.NAME
    whole = path.read_bytes()
    rng = random.Random(0)
    for position in [*range(64), *rng.sample(range(len(whole) * 8), 400)]:
        flip(path, position)
        with pytest.raises(manifest.DamagedError):
            manifest.read(path.parent)
        path.write_bytes(whole)
    assert manifest.read(path.parent).step == 20


def test_a_checkpoint_in_the_folder_of_another_is_none(workdir, tmp_path):
    copy = shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    shutil.copytree(copy / "10", copy / "30")
    reader = store.CheckpointStore(copy)
    assert reader.steps() == [10, 20]
    assert reader.restore_newest(WANTED).step == 20
    assert verify.check(tmp_path).damaged["checkpoints/30/manifest.json"] == (
        "is of step 10"
    )


def test_where_none_is_good_nothing_starts_over(workdir, tmp_path):
    copy = shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    for step, name in ((10, "counters/_METADATA"), (20, "manifest.json")):
        (copy / str(step) / name).unlink()
    with pytest.raises(errors.NoCheckpointError, match="tried 20, 10") as error:
        store.CheckpointStore(copy).restore_newest(WANTED)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


def test_an_added_file_is_harmless_and_reported(workdir):
    added = workdir / "checkpoints" / "20" / "params" / ".DS_Store"
    added.write_bytes(b"x")
    reader = store.CheckpointStore(workdir / "checkpoints")
    assert reader.restore_newest(WANTED).step == 20
    report = verify.check(workdir)
    assert report.damaged == {}
    assert report.surplus == ["checkpoints/20/params/.DS_Store"]
    added.unlink()

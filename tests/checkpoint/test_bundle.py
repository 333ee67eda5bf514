"""A bundle holds what was written, or says that it does not."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from glide_jax.checkpoint import bundle, verify
from glide_jax.errors import UserError
from glide_jax.runtime import files


def make_params():
    return {
        "unet": {
            # A transposed view: its buffer does not lie in the order of its shape.
            "kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T,
            "half": jnp.asarray([1.5, -2.0], jnp.bfloat16),
        },
        "count": np.int32(7),
    }


def write(folder, **options):
    files = {"vocab.json": b"{}", "merges.txt": "é".encode()}
    bundle.write_bundle(folder, make_params(), '{"seed": 0}', files, "# a", **options)


def test_parameters_config_and_files_come_back(tmp_path):
    write(tmp_path / "new" / "model")
    read = bundle.read_bundle(tmp_path / "new" / "model")
    np.testing.assert_array_equal(
        read.params["unet"]["kernel"], make_params()["unet"]["kernel"]
    )
    assert read.params["unet"]["half"].dtype == ml_dtypes.bfloat16
    assert read.params["unet"]["half"].tolist() == [1.5, -2.0]
    assert read.params["count"].dtype == np.int32
    assert read.config_json == '{"seed": 0}'
    assert (read.folder / "merges.txt").read_bytes() == "é".encode()
    assert (read.folder / "README.md").read_text() == "# a"
    # Nothing half-written stays beside it.
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_bundle_is_restored_after_a_killed_replacement(
    tmp_path, monkeypatch, renames
):
    folder = tmp_path / "model"
    write(folder)
    rename = files.rename
    made = []

    def killed(source, target):
        made.append(source)
        if len(made) == renames:
            # As a killed process leaves it, which tidies nothing up.
            shutil.copytree(source.parent, tmp_path / ".model.left", symlinks=True)
            raise KeyboardInterrupt
        return rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(files, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            write(folder)
    if renames == 1:
        bundle.read_bundle(folder)  # the older one is where it was
        return
    left = tmp_path / ".model.left" / "new"
    for look in (bundle.read_bundle, verify.check):
        with pytest.raises(UserError, match=f"cut off: mv {left} {folder}$"):
            look(folder)
    left.rename(folder)
    bundle.read_bundle(folder)


def test_only_floating_tensors_are_cast(tmp_path):
    write(tmp_path / "model", dtype=jnp.bfloat16)
    params = bundle.read_bundle(tmp_path / "model").params
    assert params["unet"]["kernel"].dtype == ml_dtypes.bfloat16
    assert params["count"].dtype == np.int32
    write(tmp_path / "model", dtype=np.float32)
    params = bundle.read_bundle(tmp_path / "model").params
    assert params["unet"]["half"].dtype == np.float32


def test_a_bundle_replaces_a_bundle_but_nothing_else(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "model")
    (tmp_path / "model" / "old.txt").touch()
    write(tmp_path / "model")
    assert not (tmp_path / "model" / "old.txt").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(UserError, match="is not a bundle; give a new folder"):
        write(tmp_path / "photos")
    assert (tmp_path / "photos" / "a.png").exists()


@pytest.mark.parametrize(
    "name", ["config.json", "bundle.json", "../evil", "a/../../evil", "/evil"]
)
def test_files_cannot_take_other_places(tmp_path, name):
    with pytest.raises(ValueError, match="may not be named"):
        bundle.write_bundle(tmp_path / "model", {}, "{}", {name: b""}, "")
    assert not (tmp_path / "model").exists()


def test_files_in_a_folder_of_the_bundle_are_checked_as_well(tmp_path):
    bundle.write_bundle(tmp_path / "model", {}, "{}", {"program/run.py": b"1"}, "")
    folder = bundle.read_bundle(tmp_path / "model").folder
    assert (folder / "program" / "run.py").read_bytes() == b"1"
    (folder / "program" / "run.py").write_bytes(b"2")
    with pytest.raises(UserError, match=r"program/run\.py is not the file"):
        bundle.read_bundle(folder)


def test_every_file_of_a_bundle_may_be_read_by_whom_one_of_them_may(tmp_path):
    write(tmp_path / "model")
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1


def test_parameters_come_back_from_their_names():
    flat = bundle.flatten(make_params())
    assert flat.keys() == {"unet/kernel", "unet/half", "count"}
    nested = bundle.nest(flat)
    assert nested["unet"]["kernel"] is flat["unet/kernel"]
    assert nested.keys() == make_params().keys()


def test_what_is_not_a_whole_bundle_is_refused(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(UserError, match="is not a bundle"):
        bundle.read_bundle(folder)

    write(folder)
    (folder / "params.safetensors").open("ab").write(b"x")
    with pytest.raises(UserError, match=r"params\.safetensors is not the file"):
        bundle.read_bundle(folder)

    write(folder)
    (folder / "vocab.json").unlink()
    with pytest.raises(UserError, match=r"vocab\.json is missing"):
        bundle.read_bundle(folder)

    write(folder)
    (folder / "bundle.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(
        UserError, match=r"bundle format 2.*reads formats 1 to 1; install"
    ):
        bundle.read_bundle(folder)

    write(folder)
    mark = json.loads((folder / "bundle.json").read_text())
    assert mark.pop("format") == bundle.FORMAT
    (folder / "bundle.json").write_text(json.dumps(mark))
    assert bundle.read_bundle(folder).folder == folder  # the first one had no number

    (folder / "bundle.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        bundle.read_bundle(folder)


@pytest.mark.parametrize(
    "mark",
    [
        b"\xff\xfe",
        b"[1]",
        b'{"format": 1}',
        b'{"format": 1, "sha256": []}',
        b'{"format": 1, "sha256": {"README.md": ""}}',
    ],
    ids=["not_utf8", "list", "no_digests", "wrong_digests", "too_few"],
)
def test_a_damaged_mark_is_one_line(tmp_path, mark):
    write(tmp_path / "model")
    (tmp_path / "model" / "bundle.json").write_bytes(mark)
    with pytest.raises(UserError, match="export") as error:
        bundle.read_bundle(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    # Below a file nobody may make a folder, whatever their rights.
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as error:
        write(tmp_path / "file" / "deep" / "model")
    assert "\n" not in str(error.value)

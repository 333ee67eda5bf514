"""The settings of every experiment at the published sizes, held against drift.

After a change that is meant, `python -m tests.test_golden_configs` writes the files
anew; the difference belongs into the same commit.
"""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

from glide_jax import errors, presets
from glide_jax.config import defaults, resolve, validate
from glide_jax.train import teachers

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "configs"
EXPERIMENTS = sorted((ROOT / "experiments" / "configs").glob("*.py"))
# The toy sizes are tuned by what they reach on this machine, not by a paper.
PUBLISHED = ("released", "paper")

published_sizes = pytest.mark.parametrize("size", PUBLISHED)
experiments = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)


def load(path: pathlib.Path, size: str) -> defaults.Config:
    """The resolved settings of an experiment file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return resolve.from_config_dict(module.get_config(size))


def sizes_of(path: pathlib.Path) -> tuple[str, ...]:
    """The sizes of an experiment file; students have fewer."""
    is_student = load(path, "tiny").train.teacher
    return presets.STUDENT_SIZES if is_student else presets.SIZES


def golden_file(path: pathlib.Path, size: str) -> pathlib.Path:
    return GOLDEN / f"{path.stem}_{size}.json"


@experiments
@published_sizes
def test_an_experiment_resolves_to_its_golden_settings(path, size):
    golden = resolve.from_json(golden_file(path, size).read_text())
    assert resolve.differences(golden, load(path, size)) == []


@experiments
def test_every_experiment_is_valid_at_every_size(path):
    for size in sizes_of(path):
        config = load(path, size)
        validate.validate(config)
        assert config.name == f"{path.stem}_{size}"
    for size in {*presets.SIZES, "huge"} - set(sizes_of(path)):
        with pytest.raises(errors.UserError, match=f"'{size}' is not one of tiny"):
            load(path, size)


@pytest.mark.parametrize("size", presets.SIZES)
def test_the_phases_of_a_size_fit_each_other(size):
    by_name = {p.stem: load(p, size) for p in EXPERIMENTS if size in sizes_of(p)}
    base, upsampler = by_name["base64"], by_name["upsample256"]
    assert upsampler.model.low_res_px == base.model.image_px
    assert by_name["base64_cfg"].model == base.model
    assert by_name["base64_cfg"].train.caption_drop_prob > 0
    assert by_name["base64_inpaint"].model.inpaint
    assert by_name["upsample256_inpaint"].model.inpaint
    clip = by_name["noised_clip64"]
    assert clip.model.image_px == base.model.image_px
    # A CLIP guides only the noise that it was trained on.
    assert clip.diffusion.noise == base.diffusion.noise


@pytest.mark.parametrize("size", presets.STUDENT_SIZES)
@pytest.mark.parametrize(
    ("teacher", "student"),
    [("base64_cfg", "base64_fold"), ("upsample256", "upsample256_halve")],
)
def test_a_student_of_a_size_fits_the_first_teacher_of_its_size(teacher, student, size):
    by_name = {path.stem: path for path in EXPERIMENTS}
    teachers.check_config(load(by_name[teacher], size), load(by_name[student], size))


def test_every_golden_file_has_its_experiment():
    expected = {golden_file(path, size) for path in EXPERIMENTS for size in PUBLISHED}
    assert set(GOLDEN.iterdir()) == expected


def write_golden_files() -> None:
    """Takes the settings of today as the golden ones."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for path in EXPERIMENTS:
        for size in PUBLISHED:
            text = resolve.to_json(load(path, size))
            golden_file(path, size).write_text(text)


if __name__ == "__main__":
    write_golden_files()

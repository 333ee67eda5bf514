"""The models that come with the package."""

import numpy as np
import pytest

from glide_jax import Glide, errors
from glide_jax.checkpoint import bundle
from glide_jax.cli import main
from glide_jax.sample import image_io, shipped

PROMPT = "a red heart, in Fluent style"


def test_they_have_twelve_megabytes_and_match_their_digests():
    sizes = []
    for folder in shipped.folders().values():
        bundle.read_bundle(folder)  # raises for a file that is not the recorded one
        sizes += [path.stat().st_size for path in folder.rglob("*")]
    assert sum(sizes) < 12.1e6


def test_an_installation_without_them_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(errors.UserError, match="install it again"):
        Glide.load()


@pytest.mark.slow
def test_without_a_bundle_the_verb_and_the_class_draw_the_same(tmp_path, capsys):
    output = tmp_path / "heart"
    few = ["--respacing=5", "--upsampler_respacing=4", "--batch_size=1"]
    assert main.run(["sample", f"--prompt={PROMPT}", f"--output={output}", *few]) == 0
    assert f"models: those of glide_jax, {shipped.FOLDER}" in capsys.readouterr().out
    drawn = image_io.read_image(output / "000000.png")
    assert drawn.shape == (128, 128, 3)
    # A border of white, and something that is not.
    assert np.median(drawn[[0, -1]]) > 230 > drawn.min()
    options = {"respacing": "5", "upsampler_respacing": "4", "batch_size": 1}
    (same,) = Glide.load().sample(PROMPT, **options).images
    np.testing.assert_array_equal(same, drawn)

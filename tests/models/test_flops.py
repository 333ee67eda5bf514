"""Operations by formula against counts of the released code's own layers."""

import dataclasses

import pytest

from glide_jax import presets
from glide_jax.models import build


@pytest.mark.parametrize(
    ("config", "gigaflops"),
    [
        (presets.base("paper"), 1858.2),
        (presets.upsampler("paper"), 5096.2),
        (presets.base("released"), 238.3),
        (presets.upsampler("released"), 1281.1),
    ],
)
def test_flops_of_a_forward_pass_equal_the_released_codes(config, gigaflops):
    total = sum(build.forward_flops(config).values())
    # The reference figures are rounded to a tenth.
    assert total / 1e9 == pytest.approx(gigaflops, rel=1e-3)


def test_flops_of_the_released_clip():
    parts = build.forward_flops(presets.noised_clip("released"))
    # The release pads 257 image positions to 288 and 77 text positions to 96 inside
    # attention, which is 1% of its work: 46.7 and 6.0.
    assert parts["image"] / 1e9 == pytest.approx(46.7, rel=0.02)
    assert parts["text"] / 1e9 == pytest.approx(6.0, rel=0.02)


def test_the_unets_flops_do_not_depend_on_the_text_encoder():
    config = presets.base("released")
    deeper = dataclasses.replace(config, text_layers=24)
    first, second = build.forward_flops(config), build.forward_flops(deeper)
    assert first["unet"] == second["unet"]
    assert first["text"] < second["text"]

"""The settings of the models; `defaults` has those of a run and names the sources."""

from __future__ import annotations

from dataclasses import dataclass

from glide_jax.config import choices
from glide_jax.config.setting import ARRAYS, IDENTITY, setting


@dataclass(frozen=True)
class Text2ImConfig:
    """The text-conditional U-Net and its text transformer, at the released sizes.

    The base model, the upsampler and their inpainting forms are settings of this model.
    """

    # model family; set by the experiment file
    family: str = setting("text2im", ARRAYS, choices=lambda: MODEL_FAMILIES)
    image_px: int = setting(64, ARRAYS, low=1)  # side of x_t, pixels (published)
    # channels of the first level (published)
    num_channels: int = setting(192, ARRAYS, low=1)
    # channels of each level as a multiple of num_channels, finest first (published)
    channel_mult: tuple[int, ...] = setting((1, 2, 3, 4), ARRAYS, low=1)
    # residual blocks of each level (published)
    num_res_blocks: int = setting(3, ARRAYS, low=1)
    # sides of the levels with attention, positions (published)
    attention_px: tuple[int, ...] = setting((32, 16, 8), ARRAYS, low=1)
    # channels of each attention head (published)
    head_channels: int = setting(64, ARRAYS, low=1)
    # GroupNorm groups (published); one group per channel would remove channel means
    norm_groups: int = setting(32, ARRAYS, low=1)
    # dropout probability in residual blocks (published)
    dropout_prob: float = setting(0.1, IDENTITY, low=0, high=1)
    text_context: int = setting(128, ARRAYS, low=1)  # tokens of a caption (published)
    # rows of the token embedding table (published)
    vocab_size: int = setting(50257, ARRAYS, low=1)
    # channels of the text transformer (published)
    text_width: int = setting(512, ARRAYS, low=1)
    # layers of the text transformer (published)
    text_layers: int = setting(16, ARRAYS, low=1)
    # attention heads of the text transformer (published)
    text_heads: int = setting(8, ARRAYS, low=1)
    # side of the squares of pixels that the U-Net reads and writes as channels of one
    # position; its levels then count positions (inferred: 2301.11093); 1: as published
    patch_px: int = setting(1, ARRAYS, low=1)
    # side of the upsampler's low-resolution condition, pixels; 0: not an upsampler
    low_res_px: int = setting(0, ARRAYS, low=0)
    # adds four input channels: the known pixels and their mask
    inpaint: bool = setting(False, ARRAYS)
    # adds the guidance scale as an input, trained between these two values; empty: none
    guidance_range: tuple[float, ...] = setting((), ARRAYS, low=0)
    # adds the enlarged low_res to the x_start that an upsampler predicts as x or
    # x_and_eps (ours), so that training starts from the small picture
    residual_low_res: bool = setting(False, IDENTITY)
    # dtype of activations; parameters stay float32
    compute_dtype: str = setting("bfloat16", IDENTITY, choices=choices.DTYPES)

    @property
    def grid_px(self) -> int:
        """Side of the U-Net's first level, positions."""
        return self.image_px // self.patch_px

    @property
    def input_channels(self) -> int:
        """Channels of [x_t, image * mask, mask, low_res]: 3, 6, 7 or 10."""
        return 3 + 4 * self.inpaint + 3 * bool(self.low_res_px)


@dataclass(frozen=True)
class NoisedClipConfig:
    """CLIP whose image tower reads x_t and its timestep (released ViT-B/4 sizes)."""

    # model family; set by the experiment file
    family: str = setting("noised_clip", ARRAYS, choices=lambda: MODEL_FAMILIES)
    image_px: int = setting(64, ARRAYS, low=1)  # side of x_t, pixels (published)
    patch_px: int = setting(4, ARRAYS, low=1)  # side of a patch, pixels (published)
    # channels of the image transformer (published)
    image_width: int = setting(768, ARRAYS, low=1)
    # layers of the image transformer (published)
    image_layers: int = setting(12, ARRAYS, low=1)
    # attention heads of the image transformer (published)
    image_heads: int = setting(12, ARRAYS, low=1)
    text_context: int = setting(77, ARRAYS, low=1)  # tokens of a caption (published)
    # rows of the token embedding table, of which 49408 are used (published)
    vocab_size: int = setting(65536, ARRAYS, low=1)
    # channels of the text transformer (published)
    text_width: int = setting(512, ARRAYS, low=1)
    # layers of the text transformer (published)
    text_layers: int = setting(12, ARRAYS, low=1)
    # attention heads of the text transformer (published)
    text_heads: int = setting(8, ARRAYS, low=1)
    # dimension of the joint embedding of images and captions (published)
    embed_dim: int = setting(512, ARRAYS, low=1)
    # dtype of activations; parameters stay float32
    compute_dtype: str = setting("bfloat16", IDENTITY, choices=choices.DTYPES)


# Rows of the noised CLIP's timestep table, the longest possible chain (published).
NOISED_CLIP_TIMESTEPS = 1000

ModelConfig = Text2ImConfig | NoisedClipConfig
MODEL_FAMILIES: dict[str, type[ModelConfig]] = {
    "text2im": Text2ImConfig,
    "noised_clip": NoisedClipConfig,
}

"""Every setting of a run, once: its default, unit, meaning and source.

Sources: "published" is the GLIDE paper (arXiv 2112.10741) or its released code;
"inferred" follows a paper GLIDE builds on; "ours" is a choice nobody published.
Lists are tuples, because only tuples can be overridden from the command line.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Text2ImConfig:
    """The text-conditional U-Net and its text transformer (released sizes).

    Base, upsampler and their inpainting forms are fields of this one model.
    """

    family: str = "text2im"  # text2im or noised_clip; set by the experiment file
    image_px: int = 64  # side of x_t, pixels (published)
    num_channels: int = 192  # width of the first level (published)
    # width of each level as a multiple of num_channels, finest first (published)
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3  # residual blocks a level (published)
    # sides of the levels with attention, pixels (published)
    attention_px: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64  # channels of an attention head (published)
    # GroupNorm groups (published); as many as channels would erase each channel's mean
    norm_groups: int = 32
    dropout_prob: float = 0.1  # in residual blocks (published default)
    text_context: int = 128  # tokens of a caption (published)
    vocab_size: int = 50257  # rows of the token table (published)
    text_width: int = 512  # channels of the text transformer (published)
    text_layers: int = 16  # its layers (published)
    text_heads: int = 8  # its attention heads (published)
    low_res_px: int = 0  # side of the upsampler's condition; 0: not an upsampler
    inpaint: bool = False  # four more input channels: known pixels and their mask
    compute_dtype: str = "bfloat16"  # float32, bfloat16 or float16; params stay float32

    @property
    def input_channels(self) -> int:
        """Channels of [x_t, image * mask, mask, low_res]: 3, 6, 7 or 10."""
        return 3 + 4 * self.inpaint + 3 * bool(self.low_res_px)


@dataclass(frozen=True)
class NoisedClipConfig:
    """CLIP whose image tower sees x_t and its timestep (released ViT-B/4 sizes)."""

    family: str = "noised_clip"  # text2im or noised_clip; set by the experiment file
    image_px: int = 64  # side of x_t, pixels (published)
    patch_px: int = 4  # side of a patch, pixels (published)
    image_width: int = 768  # channels of the image transformer (published)
    image_layers: int = 12  # its layers (published)
    image_heads: int = 12  # its attention heads (published)
    text_context: int = 77  # tokens of a caption (published)
    vocab_size: int = 65536  # rows of the token table, 49408 used (published)
    text_width: int = 512  # channels of the text transformer (published)
    text_layers: int = 12  # its layers (published)
    text_heads: int = 8  # its attention heads (published)
    embed_dim: int = 512  # of the space that pictures and captions share (published)
    compute_dtype: str = "bfloat16"  # float32, bfloat16 or float16; params stay float32


# Rows of the noised CLIP's timestep table: no chain may be longer (published).
NOISED_CLIP_TIMESTEPS = 1000

ModelConfig = Text2ImConfig | NoisedClipConfig
MODEL_FAMILIES: dict[str, type] = {
    "text2im": Text2ImConfig,
    "noised_clip": NoisedClipConfig,
}


@dataclass(frozen=True)
class DiffusionConfig:
    """The noising process that a model is trained on."""

    # squaredcos_cap_v2 for base and CLIP, linear for the upsampler (published)
    schedule: str = "squaredcos_cap_v2"
    num_timesteps: int = 1000  # training chain length (published)


@dataclass(frozen=True)
class DataConfig:
    """Captioned images and what is done to them before the step."""

    # shapes:quickstart, shapes:full, webdataset:GLOB_OR_DIR, folder:DIR or
    # tfds:NAME_OR_DIR; options such as folder:DIR?image=png: see docs/inputs.md
    sources: tuple[str, ...] = ("shapes:full",)
    weights: tuple[float, ...] = (1.0,)  # share of each source in a batch
    # The same kinds, for validation loss, sample grids and evaluations; empty: none.
    validation_sources: tuple[str, ...] = ()
    # gpt2, clip, a folder or .model file, or sentencepiece:N: N pieces trained
    # on this run's captions. Empty: that of train.init_from, else gpt2.
    tokenizer: str = ""
    # none, blur, noise or quantise; GLIDE states none (inferred: none)
    low_res_corruption: str = "none"
    # blur: sigma in low_res pixels (unCLIP's 0.6); noise: std in [-1, 1] units
    low_res_corruption_strength: float = 0.6
    flip_prob: float = 0.0  # captions say left and right, so never by default (ours)
    # Folder of a local disk that keeps each picture, cut to model.image_px, when it is
    # decoded first (3 * image_px**2 bytes); runs and processes share it. "": none
    cache_dir: str = ""
    num_threads: int = 2  # decoding threads of each process
    prefetch_batches: int = 4  # batches decoded ahead of the step
    max_bad_frac: float = 0.01  # share of bad records that stops a run (ours)


@dataclass(frozen=True)
class TrainConfig:
    """The objective and the length of a phase."""

    num_steps: int = 1000  # updates of the whole run
    global_batch_size: int = 2048  # over all devices and processes (published, base)
    # Chance of an empty caption per example; 0.2 in the fine-tune (published)
    caption_drop_prob: float = 0.0
    loss_type: str = "hybrid"  # hybrid, mse, mse_vb, kl or rescaled_kl (inferred)
    # Adds the error of the noise estimate's f x f means, for each f (ours, for short
    # runs: the coarse look of a large picture is otherwise learned last)
    low_pass_factors: tuple[int, ...] = ()
    # uniform, loss_second_moment or power (inferred: uniform)
    timestep_sampling: str = "uniform"
    # power: p(t) rises as ((t + 1) / T) ** timestep_power, not corrected for (ours)
    timestep_power: float = 0.0
    # A workdir or a bundle whose weights this phase starts from; empty: none
    init_from: str = ""
    # Parts of a batch that go through the network one after another; the gradient is
    # that of the whole batch (ours)
    microbatches: int = 1
    # What the backward pass computes again instead of keeping it, see models/remat.py:
    # none, dots, blocks, full or offload; one name, or one for each level of the U-Net
    # from the finest. Of a noised CLIP: its image tower (ours)
    remat: tuple[str, ...] = ("none",)
    remat_text: str = "none"  # the same, of the text transformer's layers (ours)
    init_log2_loss_scale: float = 20.0  # float16 only (published in ADM's code)
    # float16 only: a gradient that overflows even at this scale ends the run (ours)
    min_log2_loss_scale: float = 0.0
    # Also skip an update whose loss is more than so many times the recent ones'
    # average; 0: never (ours)
    skip_loss_above: float = 0.0
    # This many skipped updates in a row take the run back to the last good checkpoint,
    # and past their batches (ours). float16 needs about twenty to find its loss scale
    max_skipped_in_a_row: int = 50
    max_rewinds: int = 3  # such returns of a run; one more ends it (ours)
    check_replicas_every_steps: int = 0  # compare the devices' copies; 0: never
    stall_secs: float = 1800.0  # a longer step ends the process; seconds, 0: never
    grace_secs: float = 30.0  # from a signal to the end of the process, saved by then


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning rate; GLIDE states none of these (inferred: ADM)."""

    name: str = "adamw"  # adamw, adafactor or lion
    learning_rate: float = 1e-4  # peak
    # linear, from one part of so many; a tenth of a shorter run, if the rate decays
    warmup_steps: int = 0
    schedule: str = "constant"  # after warm-up: constant, cosine or linear to 0
    b1: float = 0.9  # decay of the first moment (Lion: weight of it in the update)
    b2: float = 0.999  # decay of the second moment (Lion: of its only one)
    eps: float = 1e-8  # added to the denominator of the update
    weight_decay: float = 0.0  # on kernels and tables, not biases and norm gains
    grad_clip_norm: float = 0.0  # global norm; 0: off
    # float32 or bfloat16: of the first moment, which is Lion's only one
    moments_dtype: str = "float32"
    # Keep moments in the host's memory between updates: slower, 8 bytes a parameter
    # less on the device
    moments_on_host: bool = False


@dataclass(frozen=True)
class EmaConfig:
    """Running averages of the parameters; the first is exported by default."""

    decays: tuple[float, ...] = (0.9999,)  # (inferred: ADM, unCLIP)
    # decay at step k is min(decay, (1 + k) / (10 + k)), so that a short run's
    # average forgets its initialisation (ours)
    warmup: bool = True
    every_steps: int = 1  # updates between two looks at the parameters (ours)
    on_host: bool = False  # keep averages in the host's memory between updates


@dataclass(frozen=True)
class MeshConfig:
    """Devices as axes; one of the sizes may be -1: what is left.

    The *_dcn parts span slices over the data-centre network, the others the chips
    of one slice. Where all *_dcn are 1, data_dcn is the number of slices of TPUs.
    """

    data: int = -1  # copies of the model, each with its part of the batch
    fsdp: int = 1  # the same, with the parameters cut among the copies
    tensor: int = 1  # parts of each attention head's and perceptron's work
    data_dcn: int = 1  # part of the data axis over slices
    fsdp_dcn: int = 1  # part of the fsdp axis over slices
    tensor_dcn: int = 1  # part of the tensor axis over slices
    min_shard_mb: float = 1.0  # MB; smaller tensors stay whole on every device
    # Before the rules of the model's family, see parallel/sharding_rules.py:
    # "REGEX=AXES" with an axis or - for each dimension, e.g.
    # "mlp_in/kernel=-,fsdp,tensor"
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointConfig:
    """When the training state is written and how many states are kept."""

    every_steps: int = 1000  # updates between two checkpoints
    keep: int = 3  # newest ones
    keep_every_steps: int = 0  # and, for good, one every so many steps; 0: none
    keep_every_hours: float = 0.0  # and, for good, one every so many hours; 0: none
    keep_best: int = 0  # and those with the lowest best_metric
    best_metric: str = "validation/loss"  # as it is named in metrics.jsonl


@dataclass(frozen=True)
class LogConfig:
    """What a run tells about itself."""

    every_steps: int = 50  # one JSONL row and TensorBoard point
    # validation loss of the first average, also at step 0 and at the end; 0: only then
    validate_every_steps: int = 0
    validation_examples: int = 256  # records that a validation loss is of
    grid_every_steps: int = 0  # fixed-seed sample grid from the EMA; 0: never
    grid_images: int = 8  # pictures of a grid
    wandb_project: str = ""  # Weights & Biases project to log to; empty: none


@dataclass(frozen=True)
class EvaluateConfig:
    """Figures of the first average as training goes on, as `glide evaluate` makes."""

    every_steps: int = 0  # and at the end; 0: never (ours)
    features: str = ""  # inception:FILE, inception_tf1:FILE or clip:BUNDLE
    reference: str = ""  # of `glide evaluate reference`, at model.image_px
    num_images: int = 256  # drawn of validation_sources (ours; published: 30,000)
    batch_size: int = 64  # pictures drawn at once (ours)
    guidance_scale: float = 1.5  # of a base model that has it (published, for FID)


@dataclass(frozen=True)
class SampleConfig:
    """Sampling defaults that travel with the exported model."""

    sampler: str = "ddpm"  # one of diffusion.samplers.SAMPLERS
    respacing: str = "150"  # timesteps kept (published: 150; upsampler fast27)
    eta: float = 0.0  # share of fresh noise at each step, 0 to 1; ddim only
    guidance_scale: float = 3.0  # classifier-free (published)
    clip_guidance_scale: float = 2.0  # (published)
    noise_temperature: float = 1.0  # of the start noise (published: upsampler 0.997)
    # upsampler: hold the picture to the small one's colours at each step (DDNM's)
    match_low_res: bool = False


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str = "base64"  # of the run, in logs and bundles
    seed: int = 0  # of weights, data order, noise and dropout
    model: ModelConfig = Text2ImConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sample: SampleConfig = SampleConfig()


SECTIONS: dict[str, type] = {
    field.name: type(getattr(Config(), field.name))
    for field in dataclasses.fields(Config)
    if field.name not in ("name", "seed", "model")
}

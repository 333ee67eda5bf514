"""Every setting of a run: its default, values, unit, meaning and source.

Sources: "published" is the GLIDE paper (arXiv 2112.10741) or its released code;
"inferred" follows a paper that GLIDE builds on; "ours" is a choice that nobody
published. Lists are tuples, because only tuples can be overridden on the command line.

Each setting also declares what its change does to a run that is resumed, see
`setting.OnResume`: FREE, IDENTITY, ARRAYS or HISTORY.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from glide_jax.config import choices

# Read from here as well, like the settings below.
from glide_jax.config.model_settings import MODEL_FAMILIES as MODEL_FAMILIES
from glide_jax.config.model_settings import (
    NOISED_CLIP_TIMESTEPS as NOISED_CLIP_TIMESTEPS,
)
from glide_jax.config.model_settings import ModelConfig as ModelConfig
from glide_jax.config.model_settings import NoisedClipConfig as NoisedClipConfig
from glide_jax.config.model_settings import Text2ImConfig as Text2ImConfig
from glide_jax.config.setting import (
    ARRAYS,
    FREE,
    HISTORY,
    IDENTITY,
    Rule,
    rules_of,
    setting,
)

MAX_SEED = 2**31 - 1  # the largest seed that both JAX and NumPy accept


@dataclass(frozen=True)
class DiffusionConfig:
    """The noising process that a model is trained on."""

    # squaredcos_cap_v2 for base and CLIP, linear for the upsampler (published)
    schedule: str = setting(
        "squaredcos_cap_v2", IDENTITY, choices=choices.noise_schedules
    )
    # length of the training chain, steps (published)
    num_timesteps: int = setting(1000, HISTORY, low=1)
    # what the network predicts: eps (published), v, x_and_eps, which a student of few
    # steps needs (inferred: 2202.00512), or x, for patches (inferred: 2511.13720)
    prediction: str = setting("eps", IDENTITY, choices=choices.predictions)

    @property
    def noise(self) -> str:
        """The noise alone, in which a model and the CLIP that guides it must agree."""
        return f"schedule={self.schedule} num_timesteps={self.num_timesteps}"


@dataclass(frozen=True)
class DataConfig:
    """Captioned images and their preprocessing."""

    # data sources, each KIND:PLACE, e.g. folder:photos?image=png; see docs/inputs.md
    sources: tuple[str, ...] = setting(("shapes:full",), IDENTITY)
    # share of each source, exact in every 1000 examples and normalised to a sum of 1;
    # one weight for several sources: equal shares
    weights: tuple[float, ...] = setting((1.0,), IDENTITY, above=0)
    # sources of validation losses, sample grids and evaluations; empty: none
    validation_sources: tuple[str, ...] = setting((), FREE)
    # gpt2, clip, a folder, a .model file, or sentencepiece:N to train N pieces on the
    # captions of this run; empty: the tokenizer of train.init_from, else gpt2
    tokenizer: str = setting("", IDENTITY)
    # corruption of low_res in training; GLIDE states none (inferred: none)
    low_res_corruption: str = setting("none", IDENTITY, choices=choices.CORRUPTIONS)
    # blur: sigma in low_res pixels (unCLIP's 0.6); noise: std in [-1, 1] units
    low_res_corruption_strength: float = setting(0.6, IDENTITY, low=0)
    # probability of a horizontal flip; captions name left and right (ours)
    flip_prob: float = setting(0.0, IDENTITY, low=0, high=1)
    # folder on a local disk that caches each decoded picture at model.image_px
    # (3 * image_px**2 bytes); runs and processes may share it; empty: no cache
    cache_dir: str = setting("", FREE)
    num_threads: int = setting(2, FREE, low=1)  # decoding threads of each process
    prefetch_batches: int = setting(4, FREE, low=1)  # batches decoded ahead of the step
    # share of bad records above which a run stops (ours)
    max_bad_frac: float = setting(0.01, FREE, low=0, high=1)


@dataclass(frozen=True)
class TrainConfig:
    """The objective and the length of a training phase."""

    # batches of the run, skipped updates included
    num_steps: int = setting(1000, FREE, low=1)
    # examples of a batch, over all devices and processes (published, base)
    global_batch_size: int = setting(2048, IDENTITY, low=1)
    # probability of an empty caption per example; 0.2 in the guidance phase (published)
    caption_drop_prob: float = setting(0.0, IDENTITY, low=0, high=1)
    # terms of the denoising loss (inferred); hybrid is mse_vb at 1000 timesteps
    loss_type: str = setting("hybrid", IDENTITY, choices=choices.loss_types)
    # weight of the squared error by timestep, see diffusion/losses.py (2303.09556,
    # 2410.19324); none: that of the predicted quantity
    loss_weighting: str = setting("none", IDENTITY, choices=choices.loss_weightings)
    # min_snr, sigmoid: signal-to-noise ratio from which on the error of x_start keeps
    # its weight
    loss_weighting_snr: float = setting(5.0, IDENTITY, above=0)
    # adds, for each factor f, the squared error of the f x f means of the predicted
    # noise; short runs then learn the low frequencies of large images earlier (ours)
    low_pass_factors: tuple[int, ...] = setting((), IDENTITY, low=2)
    # distribution of t (inferred: uniform)
    timestep_sampling: str = setting(
        "uniform", HISTORY, choices=choices.TIMESTEP_SAMPLINGS
    )
    # power: p(t) is proportional to ((t + 1) / T) ** timestep_power, uncorrected (ours)
    timestep_power: float = setting(0.0, IDENTITY, low=0)
    # workdir or bundle with the initial parameters; empty: random initialisation
    init_from: str = setting("", IDENTITY)
    # workdir or bundle of the teacher that the run distils; empty: none. A resumed run
    # needs a teacher with the same parameters
    teacher: str = setting("", FREE)
    # steps of a student of few steps; 0: with a teacher, the run folds its guidance in
    student_steps: int = setting(0, IDENTITY, low=0)
    # loss of a student of few steps (2202.00512, 2406.04103); see docs/few_steps.md
    student_loss: str = setting("halve", ARRAYS, choices=choices.STUDENT_LOSSES)
    # gradient accumulation: parts of a batch that are processed in sequence (ours)
    microbatches: int = setting(1, FREE, low=1)
    # activations that the backward pass recomputes, see models/remat.py; one policy, or
    # one for each level of the U-Net, finest first; noised CLIP: its image tower (ours)
    remat: tuple[str, ...] = setting(("none",), FREE, choices=choices.REMAT_POLICIES)
    # the same for the layers of the text transformer (ours)
    remat_text: str = setting("none", FREE, choices=choices.REMAT_POLICIES)
    # initial log2 of the loss scale, float16 only (published in ADM's code)
    init_log2_loss_scale: float = setting(20.0, FREE, low=0)
    # float16 only: a gradient that overflows at this scale stops the run (ours)
    min_log2_loss_scale: float = setting(0.0, FREE, low=0)
    # skips an update whose loss exceeds this multiple of the recent average; 0: never
    # (ours)
    skip_loss_above: float = setting(0.0, FREE, low=0)
    # consecutive skipped updates after which the run returns to the last good
    # checkpoint and skips their batches (ours); float16 needs about 20 to find its
    # loss scale
    max_skipped_in_a_row: int = setting(50, FREE, low=1)
    # number of these returns allowed; one more stops the run (ours)
    max_rewinds: int = setting(3, FREE, low=0)
    # steps between comparisons of the replicas of the parameters; 0: never
    check_replicas_every_steps: int = setting(0, FREE, low=0)
    # seconds after which a step counts as stalled and the process exits; 0: never
    stall_secs: float = setting(1800.0, FREE, low=0)
    # seconds from a signal to the exit of the process, which saves in that time
    grace_secs: float = setting(30.0, FREE, low=1)


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning rate; GLIDE states none of these (inferred: ADM)."""

    name: str = setting("adamw", ARRAYS, choices=choices.OPTIMIZERS)  # optimizer
    learning_rate: float = setting(1e-4, FREE, above=0)  # peak learning rate
    # steps of the linear warm-up; a tenth of num_steps instead, if the learning rate
    # decays and the run is not longer than the warm-up
    warmup_steps: int = setting(0, FREE, low=0)
    # learning rate after the warm-up; cosine and linear decay to 0
    schedule: str = setting("constant", FREE, choices=choices.LEARNING_RATE_SCHEDULES)
    # decay of the first moment; Lion: its weight in the update
    b1: float = setting(0.9, FREE, low=0, below=1)
    # decay of the second moment; Lion: of its only moment
    b2: float = setting(0.999, FREE, low=0, below=1)
    eps: float = setting(1e-8, FREE, above=0)  # added to the denominator of the update
    # decoupled weight decay of kernels and tables, not of biases and norm gains
    weight_decay: float = setting(0.0, FREE, low=0)
    # largest global norm of the gradient; 0: no clipping
    grad_clip_norm: float = setting(0.0, FREE, low=0)
    # dtype of the first moment, Lion's only one
    moments_dtype: str = setting("float32", IDENTITY, choices=choices.MOMENTS_DTYPES)
    # keeps moments in host memory between updates: slower, and less memory on the
    # device, by 8 bytes per parameter with adamw and float32 moments
    moments_on_host: bool = setting(False, FREE)


@dataclass(frozen=True)
class EmaConfig:
    """Exponential moving averages of the parameters; exports use the first."""

    # decay of each average (inferred: ADM, unCLIP)
    decays: tuple[float, ...] = setting((0.9999,), ARRAYS, low=0, below=1)
    # decay at step k is min(decay, (1 + k) / (10 + k)), so that the average of a short
    # run forgets its initialisation (ours)
    warmup: bool = setting(True, FREE)
    every_steps: int = setting(1, FREE, low=1)  # updates between EMA updates (ours)
    # keeps averages in host memory between updates
    on_host: bool = setting(False, FREE)


@dataclass(frozen=True)
class MeshConfig:
    """The device mesh; one of the sizes may be -1: all remaining devices.

    The *_dcn parts span slices over the data-centre network, the others the chips
    of one slice. If all *_dcn are 1, data_dcn is the number of TPU slices.
    """

    # replicas of the model, each with its part of the batch
    data: int = setting(-1, FREE, low=-1)
    # the same, with the parameters sharded among the replicas
    fsdp: int = setting(1, FREE, low=-1)
    # shards of each attention layer, by whole heads, and of each MLP
    tensor: int = setting(1, FREE, low=-1)
    data_dcn: int = setting(1, FREE, low=-1)  # part of the data axis over slices
    fsdp_dcn: int = setting(1, FREE, low=-1)  # part of the fsdp axis over slices
    tensor_dcn: int = setting(1, FREE, low=-1)  # part of the tensor axis over slices
    # MiB below which a tensor is replicated on every device
    min_shard_mb: float = setting(1.0, FREE, low=0)
    # sharding rules that precede those of the model family, see
    # parallel/sharding_rules.py: "REGEX=AXES" with an axis or - for each dimension,
    # e.g. "mlp_in/kernel=-,fsdp,tensor"
    rules: tuple[str, ...] = setting((), FREE)


@dataclass(frozen=True)
class CheckpointConfig:
    """How often the training state is saved and how many checkpoints are kept."""

    every_steps: int = setting(1000, FREE, low=1)  # steps between checkpoints
    keep: int = setting(3, FREE, low=1)  # number of newest checkpoints kept
    # also keeps, permanently, one checkpoint per this many steps; 0: none
    keep_every_steps: int = setting(0, FREE, low=0)
    # also keeps, permanently, one checkpoint per this many hours; 0: none
    keep_every_hours: float = setting(0.0, FREE, low=0)
    # number of checkpoints with the lowest best_metric also kept
    keep_best: int = setting(0, FREE, low=0)
    # metric of keep_best, by its name in metrics.jsonl
    best_metric: str = setting("validation/loss", FREE)
    # steps between checkpoints on each host's own disk, from which a run that lost a
    # process resumes; below every_steps; 0: none (ours)
    local_every_steps: int = setting(0, FREE, low=0)
    # folder of these checkpoints on each host's own disk; empty: one of this workdir
    # below the system's temporary folder (ours)
    local_dir: str = setting("", FREE)


@dataclass(frozen=True)
class LogConfig:
    """Metrics, validation losses and sample grids of a run."""

    # steps between rows of metrics.jsonl and TensorBoard points
    every_steps: int = setting(50, FREE, low=1)
    # steps between validation losses of the first EMA, also computed at step 0 and at
    # the end; 0: only then
    validate_every_steps: int = setting(0, FREE, low=0)
    # records of a validation loss, rounded down to whole batches, at least one batch
    validation_examples: int = setting(256, FREE, low=1)
    # steps between fixed-seed sample grids of the first EMA, also drawn at the end by
    # `glide train`; 0: only then
    grid_every_steps: int = setting(0, FREE, low=0)
    grid_images: int = setting(8, FREE, low=1)  # images of a grid
    wandb_project: str = setting("", FREE)  # Weights & Biases project; empty: none


@dataclass(frozen=True)
class EvaluateConfig:
    """Metrics of the first EMA during training, those of `glide evaluate`."""

    # steps between evaluations, also run at the end; 0: never (ours)
    every_steps: int = setting(0, FREE, low=0)
    # extractor: inception:FILE, inception_tf1:FILE, efficientnet_lite0 or clip:BUNDLE
    features: str = setting("", FREE)
    # reference file of `glide evaluate reference`, at model.image_px
    reference: str = setting("", FREE)
    # images sampled, with captions of validation_sources (ours; published: 30,000)
    num_images: int = setting(256, FREE, low=2)
    batch_size: int = setting(64, FREE, low=1)  # images sampled at once (ours)
    # of a base model trained with dropped captions (published, for FID)
    guidance_scale: float = setting(1.5, FREE, low=0)


@dataclass(frozen=True)
class SampleConfig:
    """Sampling defaults that are stored in the exported bundle."""

    # reverse-process rule
    sampler: str = setting("ddpm", FREE, choices=choices.samplers)
    # timesteps kept (published: 150; upsampler fast27)
    respacing: str = setting("150", FREE)
    # share of fresh noise at each step, ddim only
    eta: float = setting(0.0, FREE, low=0, high=1)
    # classifier-free guidance scale; 1: off (published)
    guidance_scale: float = setting(3.0, FREE, low=0)
    # CLIP guidance scale (published)
    clip_guidance_scale: float = setting(2.0, FREE, low=0)
    # std of the initial noise (published: upsampler 0.997)
    noise_temperature: float = setting(1.0, FREE, low=0)
    # upsampler: projects each step onto images whose downsampling is low_res (DDNM)
    match_low_res: bool = setting(False, FREE)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str = setting("base64", FREE)  # name of the run, in logs and bundles
    # seed of parameters, data order, noise and dropout
    seed: int = setting(0, IDENTITY, low=0, high=MAX_SEED)
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


@functools.cache
def rules() -> dict[str, Rule]:
    """The rule of every setting by its dotted path, for all model families."""
    by_path = rules_of(Config)
    models = (("model", family) for family in MODEL_FAMILIES.values())
    for name, section in (*models, *SECTIONS.items()):
        for field, rule in rules_of(section).items():
            by_path[f"{name}.{field}"] = rule
    return by_path

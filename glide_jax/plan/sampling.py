"""Compiles the sampler of a model for chips that need not be here.

The three parts of a stage (`sample.segments.Parts`) are compiled as `glide sample` runs
them on one host. The compiler does not know the number of steps of a segment; here it
is known, so that the bound is that of a whole batch.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable
from typing import Any

import jax

from glide_jax.config import validate
from glide_jax.config.defaults import Config, MeshConfig, Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.parallel import device_mesh
from glide_jax.plan import abstract_devices, compiled, cost, hlo, roofline
from glide_jax.plan.device_topology import Topology
from glide_jax.sample import abstract_stage, segments, stage


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The sampling that a plan is made for.

    Attributes:
      pictures: number of images.
      guidance_mode: one of `options.GUIDANCE_MODES`; None: `cost.default_guidance`.
      inpaint_mode: one of `options.INPAINT_MODES`; None: "pinned" for a model that
        takes a mask, and nothing is known for others.
      clip: of the run of the noised CLIP, for the modes that use one.
    """

    pictures: int
    guidance_mode: str | None = None
    inpaint_mode: str | None = None
    clip: Config | None = None

    def settings(self, config: Config) -> stage.StageSettings | None:
        """Returns the static settings of a model's stage; None for a noised CLIP.

        Raises:
          UserError: settings that do not fit each other, the model or the CLIP.
        """
        model = config.model
        if not isinstance(model, Text2ImConfig):
            for name in ("guidance_mode", "inpaint_mode", "clip"):
                if getattr(self, name) is not None:
                    flag = "clip_config" if name == "clip" else name
                    raise UserError(
                        f"{flag} has no effect on {config.name}, a noised CLIP, which "
                        "draws nothing; plan a base model with guidance_mode=clip"
                    )
            return None
        guidance_mode = self.guidance_mode or cost.default_guidance(config)
        if self.clip is not None:
            validate.validate(self.clip)
        elif "clip" in guidance_mode:
            raise UserError(
                f"guidance_mode={guidance_mode} needs a noised CLIP; give its "
                "configuration by --clip_config, or use guidance_mode=cfg"
            )
        return abstract_stage.make_settings(
            config,
            guidance_mode,
            self.inpaint_mode or ("pinned" if model.inpaint else None),
            self.clip,
        )


@dataclasses.dataclass(frozen=True)
class CompiledSampler:
    """The compiler's report of one batch of a sampler on the devices of one host.

    Attributes:
      devices: name of the host's topology.
      batch_size: number of images of the batch, over all devices of the host.
      num_steps: of a whole image.
      settings: the static settings of the program.
      argument_bytes: of a device: weights, inputs and encoded captions.
      temporary_bytes: of a device: buffers within the part that needs most.
      total_bytes: needed by that part; if it does not fit, as reported in the error.
      available_bytes: memory of the device if the sampler does not fit, else None.
      seconds: compilation time of all parts.
      compiler: its version.
      roofline: a bound on the time of the batch; None if there is no program.
      mfu: bounds on the model FLOPs utilisation; None if there is no program.
    """

    devices: str
    batch_size: int
    num_steps: int
    settings: stage.StageSettings
    argument_bytes: int
    temporary_bytes: int
    total_bytes: int
    available_bytes: int | None
    seconds: float
    compiler: str
    roofline: roofline.Roofline | None = None
    mfu: dict[str, float | None] | None = None

    @property
    def fits(self) -> bool:
        """Whether the sampler fits into the memory of a device."""
        return self.available_bytes is None

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        bound = self.roofline and self.roofline.seconds
        return {
            **dataclasses.asdict(self),
            "fits": self.fits,
            "seconds_per_batch": bound,
            "seconds_per_picture": bound and bound / self.batch_size,
        }


def compile_sampler(
    config: Config,
    topology: Topology,
    sampling: Sampling,
    on_compile: compiled.OnCompile = lambda name: None,
) -> CompiledSampler | None:
    """Compiles the sampler that `glide sample` runs on a host; None for a noised CLIP.

    Args:
      config: of the run of the model.
      topology: of the chips.
      sampling: images, guidance and inpainting.
      on_compile: see `compiled.OnCompile`.

    Raises:
      UserError: the compiler is not installed, or as `Sampling.settings`.
    """
    settings = sampling.settings(config)
    if settings is None:
        return None
    host = topology.one_host()
    mesh = device_mesh.make_mesh(MeshConfig(), abstract_devices.make_devices(host))
    made = abstract_stage.make_stage(
        config, settings, mesh, sampling.pictures, sampling.clip
    )
    on_compile(
        f"the sampler of {config.name} for batches of {made.batch_size} on "
        f"{host.describe()}"
    )
    empty = _without_program(made, settings, host)
    start = time.perf_counter()
    try:
        with abstract_devices.uncached():
            parts = made.stage.compile_parts(made.params, made.clip_params, made.inputs)
    except jax.errors.JaxRuntimeError as error:
        needed, available = compiled.read_out_of_memory(str(error))
        return dataclasses.replace(
            empty,
            total_bytes=needed,
            available_bytes=available,
            seconds=time.perf_counter() - start,
        )
    seconds = time.perf_counter() - start
    programs = segments.Parts(*(hlo.parse(part.as_text()) for part in parts))
    memory = _memory(made, parts, programs)
    available = host.machine.memory_bytes
    bound = _bound(made, programs, host, compiled.slow_network(mesh, host))
    return dataclasses.replace(
        empty,
        **memory,
        available_bytes=None if memory["total_bytes"] <= available else int(available),
        seconds=seconds,
        roofline=bound,
        mfu=_mfu(config, host, sampling, made.batch_size, bound),
    )


def _without_program(
    made: abstract_stage.AbstractStage, settings: stage.StageSettings, host: Topology
) -> CompiledSampler:
    """Returns the report before anything is compiled: all bytes are 0."""
    return CompiledSampler(
        devices=host.name,
        batch_size=made.batch_size,
        num_steps=made.num_steps,
        settings=settings,
        argument_bytes=0,
        temporary_bytes=0,
        total_bytes=0,
        available_bytes=None,
        seconds=0.0,
        compiler=abstract_devices.compiler_name(host),
    )


def _memory(
    made: abstract_stage.AbstractStage,
    parts: segments.Parts,
    programs: segments.Parts,
) -> dict[str, int]:
    """Returns the bytes of the part that needs most of a device's memory.

    Weights and inputs stay in memory while a part runs that does not read them, such as
    those of the text transformer during the steps.
    """
    alive = _bytes(jax.tree.leaves((made.params, made.clip_params, made.inputs)))
    found = []
    for part, program in zip(parts, programs, strict=True):
        memory = part.memory_analysis()
        read = sum(
            shape.bytes
            for instruction in program.computations[program.entry].values()
            if instruction.opcode == "parameter"
            for shape in instruction.shapes
        )
        arguments = memory.argument_size_in_bytes + max(0, alive - read)
        within = (
            memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )
        found.append((arguments + within, arguments, within))
        if part is parts.begin:  # the encoded captions and the first x_t
            alive += memory.output_size_in_bytes
    total, arguments, within = max(found)
    return {
        "argument_bytes": arguments,
        "temporary_bytes": within,
        "total_bytes": total,
    }


def _bytes(leaves: Iterable[jax.ShapeDtypeStruct]) -> int:
    """Returns the bytes of arrays on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in leaves
    )


def _bound(
    made: abstract_stage.AbstractStage,
    programs: segments.Parts,
    host: Topology,
    is_slow: Any,
) -> roofline.Roofline:
    """Returns the bound of a batch: all segments, which walk all steps together."""
    begin, advance, finish = programs
    parts = [
        roofline.Part(begin),
        roofline.Part(advance, made.stage.num_segments, made.num_steps),
        roofline.Part(finish),
    ]
    return roofline.analyse_parts(parts, host.machine, is_slow)


def _mfu(
    config: Config,
    host: Topology,
    sampling: Sampling,
    batch_size: int,
    bound: roofline.Roofline,
) -> dict[str, float | None]:
    drawing = cost.estimate_drawing(
        config,
        host,
        batch_size,
        guidance_mode=sampling.guidance_mode,
        clip=sampling.clip,
    )
    assert drawing is not None
    flops = batch_size * drawing.flops_per_picture / host.num_devices
    return bound.mfu(flops, host.machine.peak_flops / host.machine.chip.devices)

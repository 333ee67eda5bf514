"""Makes a plan and its report, the JSON object that `glide plan` prints."""

from __future__ import annotations

import dataclasses
from typing import Any

from glide_jax.config.defaults import Config
from glide_jax.plan import (
    abstract_devices,
    compiled,
    cost,
    device_topology,
    memory,
    problem,
    sampling,
    search,
    traffic,
)
from glide_jax.train import teachers


def make_report(
    given: problem.Problem,
    *,
    mfu: float = cost.DEFAULT_MFU,
    price: float | None = None,
    draws: sampling.Sampling | None = None,
    program: compiled.Compiled | None = None,
    sampler: sampling.CompiledSampler | None = None,
    ranking: list[search.Option] | None = None,
    missing: list[str] | None = None,
) -> dict[str, Any]:
    """Returns the plan as JSON values; sizes are bytes, names of times have units.

    Args:
      given: the run.
      mfu: share of the chips' peak, see `cost`.
      price: of a chip-hour.
      draws: the sampling to estimate; None: none.
      program: the compiler's report, if the step was compiled.
      sampler: the compiler's report of the sampler, if it was compiled.
      ranking: options of the search, best first.
      missing: reasons why the step was not compiled.
    """
    memory_of, costs = _memory(given), _cost(given, mfu, price)
    is_refused = program is not None and not program.fits
    return {
        "config": given.config.name,
        "topology": _topology(given.topology),
        "mesh": {axis: given.mesh.shape[axis] for axis in device_topology.AXES},
        "mesh_dcn": {axis: given.spans[axis].slow for axis in device_topology.AXES},
        "run": _run(given),
        "params_total": sum(given.params_by_part.values()),
        "params_by_part": given.params_by_part,
        **memory_of,
        **costs,
        "drawing": draws and _drawing(given, draws, mfu, price),
        "sampler": sampler and sampler.to_json(),
        "compiler": program and dataclasses.asdict(program) | {"fits": program.fits},
        "mfu_bound": program and _mfu_bound(given, program, costs["flops_per_step"]),
        "advice": search.advise(given) if is_refused or not memory_of["fits"] else None,
        "ranking": [option.to_json() for option in ranking or []],
        "missing": missing or [],
    }


def _mfu_bound(
    given: problem.Problem, program: compiled.Compiled, flops_per_step: float
) -> dict[str, float | None] | None:
    """Returns the bounds on MFU that follow from the compiled program."""
    if program.roofline is None:
        return None
    where = given.topology
    peak = where.machine.peak_flops / where.machine.chip.devices
    return program.roofline.mfu(flops_per_step / where.num_devices, peak)


def _topology(where: device_topology.Topology) -> dict[str, Any]:
    return {
        "name": where.name,
        "text": where.describe(),
        "slices": where.num_slices,
        "chips": where.num_chips,
        "devices": where.num_devices,
        "hosts": where.num_hosts,
        "sold_as": where.sold_as,
        "fast_network": where.machine.fast_network,
        "peak_flops_per_chip": where.machine.peak_flops,
    }


def _run(given: problem.Problem) -> dict[str, Any]:
    train = given.config.train
    return {
        "num_steps": train.num_steps,
        "global_batch_size": train.global_batch_size,
        "microbatches": train.microbatches,
        "examples_per_microbatch": given.examples,
        "remat": list(train.remat),
        "remat_text": train.remat_text,
        "compute_dtype": given.config.model.compute_dtype,
    }


def _memory(given: problem.Problem) -> dict[str, Any]:
    where, state = given.topology, memory.measure_state(given.state)
    device, host = memory.estimate(given, state), memory.estimate_host(given, state)
    return {
        "bytes_per_device": dataclasses.asdict(device) | {"total": device.total},
        "bytes_available_per_device": where.machine.memory_bytes,
        "memory_note": where.machine.memory_note,
        "fits": device.total <= where.machine.memory_bytes,
        "checkpoint_bytes": state.total,
        "host_bytes_peak": host.total,
        "host_bytes": dataclasses.asdict(host),
        "host_bytes_available": where.machine.host_memory_bytes,
    }


def _drawing(
    given: problem.Problem, draws: sampling.Sampling, mfu: float, price: float | None
) -> dict[str, Any] | None:
    drawing = cost.estimate_drawing(
        given.config,
        given.topology,
        draws.pictures,
        mfu=mfu,
        price=price,
        guidance_mode=draws.guidance_mode,
        clip=draws.clip,
    )
    return drawing and dataclasses.asdict(drawing)


def _cost(given: problem.Problem, mfu: float, price: float | None) -> dict[str, Any]:
    config, where = given.config, given.topology
    rows = traffic.collectives(config, given.state.params, given.spans)
    on_networks = traffic.seconds(rows, where)
    costs = cost.estimate(
        config, where, network_seconds=on_networks, mfu=mfu, price=price
    )
    forward = costs.forward_flops
    return {
        "forward_gflop_per_image": sum(forward.values()) / 1e9,
        "forward_gflop_by_part": {part: n / 1e9 for part, n in forward.items()},
        "trained_networks": teachers.trained_networks(config),
        "teacher_gflop_per_image": costs.teacher_flops / 1e9,
        "flops_per_step": costs.flops_per_step,
        "mfu": mfu,
        "seconds_per_step": costs.seconds_per_step,
        "limited_by": costs.limited_by,
        "days": costs.days,
        "chip_hours": costs.chip_hours,
        "price_per_chip_hour": price,
        "cost": costs.price,
        "collectives": [dataclasses.asdict(row) for row in rows],
        "network_seconds_per_step": on_networks,
    }


def make_plan(
    config: Config,
    topology: device_topology.Topology,
    *,
    mfu: float = cost.DEFAULT_MFU,
    price: float | None = None,
    draws: sampling.Sampling | None = None,
    compiles: bool = False,
    searches: bool = False,
    on_compile: compiled.OnCompile = lambda name: None,
) -> dict[str, Any]:
    """Plans a run and returns its report, see `make_report`.

    Args:
      config: of the run.
      topology: of the chips.
      mfu: assumed share of the peak.
      price: of a chip-hour.
      draws: the sampling to estimate; None: none.
      compiles: whether to compile the step, and the sampler if `draws` is given.
      searches: whether to use the remat policies and microbatches that `search` ranks
        first, and compile with them if possible.
      on_compile: see `compiled.OnCompile`; a compilation takes minutes.

    Raises:
      UserError: the run cannot start on these devices, or `compiles` without the
        compiler, or as `sampling.Sampling.settings`.
    """
    given = problem.make_problem(config, topology)
    if draws is not None:
        draws.settings(config)  # checked before anything is compiled
    ranking = search.rank(given, mfu=mfu) if searches else []
    if ranking:
        given = given.with_train(**ranking[0].settings())
    program, sampler, missing = None, None, []
    if searches and not compiles:
        # The search itself needs no compiler.
        missing = abstract_devices.missing(topology)
    if compiles or (searches and not missing):
        program = compiled.compile_step(given.config, topology, on_compile)
        if draws is not None:
            sampler = sampling.compile_sampler(config, topology, draws, on_compile)
    return make_report(
        given,
        mfu=mfu,
        price=price,
        draws=draws,
        program=program,
        sampler=sampler,
        ranking=ranking,
        missing=missing,
    )

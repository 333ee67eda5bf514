"""The device mesh with axes data, fsdp and tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.runtime import wording

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # both hold different examples


def make_mesh(
    config: defaults.MeshConfig, devices: Sequence[array_types.Device] | None = None
) -> Mesh:
    """Returns the mesh of all `devices` (default: every device of every process).

    An axis has `NAME_dcn` parts over the data-centre network, each of `NAME` devices
    within a slice; see `over_slices` for settings that name no parts. Only TPUs have
    slices; on other devices each host is one slice if a *_dcn size is set. Axes are
    Auto: the compiler propagates shardings. (jax.make_mesh now defaults to Explicit,
    which refuses sharded convolution kernels.)

    Raises:
      UserError: the sizes do not use every device exactly once, or the *_dcn
        parts do not match the number of slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = count_slices(devices)
    ici, dcn = _resolve_sizes(config, len(devices), slices)
    axis_types = (AxisType.Auto,) * len(AXES)
    if math.prod(dcn) > 1:
        layout = _hybrid_layout(ici, dcn, devices)
        return Mesh(layout, AXES, axis_types=axis_types)
    try:
        return jax.make_mesh(ici, AXES, axis_types=axis_types, devices=devices)
    except NotImplementedError:
        # The shape does not factor into the torus (e.g. 8x8 on 4x4x4): any order is
        # correct, only collectives take longer routes.
        return Mesh(np.reshape(devices, ici), AXES, axis_types=axis_types)


def make_local_mesh(fsdp: int = 1) -> Mesh | None:
    """Returns a mesh of this process's devices; None for a single device.

    Sampling and evaluation run on it: processes share the pictures out among them, and
    each draws its own.

    Args:
      fsdp: number of devices over which the parameters of a model are sharded.

    Raises:
      UserError: `fsdp` does not divide the number of devices.
    """
    devices = jax.local_devices()
    if len(devices) % fsdp:
        raise UserError(
            f"fsdp={fsdp} does not divide the {wording.counted(len(devices), 'device')}"
            " of this process, and a model is drawn from by the devices of one process;"
            " use a number that does, or a process with more devices"
        )
    if len(devices) == 1:
        return None
    return make_mesh(defaults.MeshConfig(data=-1, fsdp=fsdp), devices)


def make_abstract_mesh(
    config: defaults.MeshConfig, num_devices: int, num_slices: int | None = None
) -> AbstractMesh:
    """Returns a mesh of devices that need not exist, for shapes and shardings.

    Args:
      config: sizes of the axes.
      num_devices: in all slices.
      num_slices: of TPUs; None: the devices are not TPUs.

    Raises:
      UserError: as `make_mesh`.
    """
    ici, dcn = _resolve_sizes(config, num_devices, num_slices)
    sizes = tuple(a * b for a, b in zip(ici, dcn, strict=True))
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def count_slices(devices: Sequence[array_types.Device]) -> int | None:
    """Returns the number of TPU slices of the devices; None for other devices.

    (GPUs have a slice_index as well, which distinguishes machines.)
    """
    if devices[0].platform != "tpu":
        return None
    return len({getattr(device, "slice_index", 0) for device in devices})


def over_slices(
    config: defaults.MeshConfig, num_slices: int | None
) -> defaults.MeshConfig:
    """Returns the axis sizes of a mesh of `num_slices` slices; plans use it as well.

    If all *_dcn sizes are 1, data_dcn becomes the number of slices: gradients cross
    the slow network once a step, parameters never do.
    """
    named = tuple(getattr(config, f"{axis}_dcn") for axis in AXES)
    if not num_slices or any(size != 1 for size in named):
        return config
    return dataclasses.replace(config, data_dcn=num_slices)


def num_batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Returns the number of shards of the batch axis."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_slice(mesh: Mesh) -> tuple[int, int]:
    """Returns (i, n): this process holds the i-th of n equal slices of a batch.

    Processes that share a tensor axis hold the same slice. Slices are numbered by their
    first rows; if a process's devices are not adjacent in the mesh, neither are its
    rows, which does not matter: random draws depend on example_index.

    Raises:
      UserError: a process would share some of its rows with another, but not all.
    """
    shards = np.arange(num_batch_shards(mesh)).reshape(
        *(mesh.shape[axis] for axis in BATCH_AXES), 1
    )
    held: dict[int, set[int]] = {}
    for device, shard in zip(
        mesh.devices.flat, np.broadcast_to(shards, mesh.devices.shape).flat, strict=True
    ):
        held.setdefault(device.process_index, set()).add(int(shard))
    slices = sorted({tuple(sorted(part)) for part in held.values()})
    if sum(len(part) for part in slices) != shards.size:
        raise UserError(
            f"mesh.tensor={mesh.shape['tensor']} does not fit processes of "
            f"{mesh.devices.size // len(held)} devices; use one that divides this "
            "number, or is a multiple of it"
        )
    mine = tuple(sorted(held[jax.process_index()]))
    return slices.index(mine), len(slices)


def check_batch(
    global_batch_size: int,
    mesh: Mesh | AbstractMesh,
    *,
    microbatches: int = 1,
    path: str = "train.global_batch_size",
) -> None:
    """Raises UserError unless every microbatch divides over the data and fsdp axes."""
    shards = num_batch_shards(mesh) * microbatches
    if global_batch_size > 0 and global_batch_size % shards == 0:
        return
    below = global_batch_size // shards * shards
    choices = [str(size) for size in (below, below + shards) if size > 0]
    sizes = ", ".join(f"{axis}={mesh.shape[axis]}" for axis in BATCH_AXES)
    parts = f", in {microbatches} microbatches" if microbatches > 1 else ""
    raise UserError(
        f"{path}={global_batch_size} is not divisible by {shards} "
        f"(mesh {sizes}{parts}); use {' or '.join(choices)}"
    )


def _resolve_sizes(
    config: defaults.MeshConfig, num_devices: int, num_slices: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns (sizes within a slice, parts over slices), with a -1 resolved."""
    config = over_slices(config, num_slices)
    names = (*AXES, *(f"{axis}_dcn" for axis in AXES))
    sizes = [getattr(config, name) for name in names]
    given = ", ".join(f"mesh.{n}={s}" for n, s in zip(names, sizes, strict=True))
    if any(size != -1 and size < 1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"{given}: sizes are 1 or more, and at most one is -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    elif -1 in sizes or known != num_devices:
        rule = "divide" if -1 in sizes else "equal"
        where = f" in {num_slices} slices" if (num_slices or 1) > 1 else ""
        raise UserError(
            f"{given}: the product {known} does not {rule} the number of devices, "
            f"{num_devices}{where}; change a size, or set one to -1 for what is left"
        )
    if num_slices:
        _check_parts(tuple(sizes[3:]), num_slices)
    return tuple(sizes[:3]), tuple(sizes[3:])


def _hybrid_layout(
    ici: tuple[int, ...], dcn: tuple[int, ...], devices: list[array_types.Device]
) -> np.ndarray:
    slices = {getattr(device, "slice_index", 0) for device in devices}
    by_process = len(slices) == 1
    if by_process:
        slices = {device.process_index for device in devices}
    _check_parts(dcn, len(slices))
    return mesh_utils.create_hybrid_device_mesh(
        ici,
        dcn,
        devices,
        process_is_granule=by_process,
        allow_split_physical_axes=True,
    )


def _check_parts(dcn: tuple[int, ...], num_slices: int) -> None:
    if math.prod(dcn) != num_slices:
        raise UserError(
            f"the mesh.*_dcn sizes make {math.prod(dcn)} parts, but the number of "
            f"slices is {num_slices}; set them so that their product is {num_slices}, "
            "or leave all at 1: then mesh.data_dcn is the number of slices of TPUs"
        )

"""The subject of a plan: one configuration on one topology, with its abstract state.

Settings, batch, mesh and slices are checked as at the start of a run, before anything
is allocated or compiled. Data is not read.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jax.sharding import AbstractMesh

from glide_jax.config import validate
from glide_jax.config.defaults import Config
from glide_jax.models import build
from glide_jax.parallel import device_mesh
from glide_jax.plan import device_topology
from glide_jax.train import placement, teachers
from glide_jax.train.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Problem:
    """A run on devices that need not be present.

    Attributes:
      config: with a mesh that uses every slice.
      topology: of the devices.
      mesh: abstract mesh of the devices.
      spans: extent of each axis of the mesh over both networks.
      state: ShapeDtypeStructs with NamedShardings.
      batch: the global batch, as ShapeDtypeStructs with NamedShardings.
      teacher: parameters of a student's teacher, as the batch; None without.
    """

    config: Config
    topology: device_topology.Topology
    mesh: AbstractMesh
    spans: dict[str, device_topology.Span]
    state: TrainState
    batch: dict[str, Any]
    teacher: Any

    @property
    def examples(self) -> int:
        """Number of examples of one microbatch on one device."""
        shards = (
            device_mesh.num_batch_shards(self.mesh) * self.config.train.microbatches
        )
        return self.config.train.global_batch_size // shards

    @property
    def params_by_part(self) -> dict[str, int]:
        """Parameter count of each part of the model."""
        return build.parameters_by_part(self.state.params)

    def with_train(self, **changes: Any) -> Problem:
        """Returns a copy with other training settings; the state does not change."""
        train = dataclasses.replace(self.config.train, **changes)
        config = dataclasses.replace(self.config, train=train)
        return dataclasses.replace(self, config=config)


def make_problem(config: Config, topology: device_topology.Topology) -> Problem:
    """Checks the settings and makes the abstract state and batch.

    Raises:
      UserError: a setting that breaks a rule, a mesh that does not use all devices, or
        a batch that does not divide.
    """
    slices = topology.tpu_slices
    mesh_config = device_mesh.over_slices(config.mesh, slices)
    config = dataclasses.replace(config, mesh=mesh_config)
    validate.validate(config)
    mesh = device_mesh.make_abstract_mesh(mesh_config, topology.num_devices, slices)
    spans = device_topology.spans(mesh_config, mesh, topology)
    placement.check_fits(config, mesh)
    placed = placement.place(config, mesh)
    return Problem(
        config=config,
        topology=topology,
        mesh=mesh,
        spans=spans,
        state=placement.with_places(placed.state, placed.where),
        batch=placement.abstract_batch(config, mesh),
        teacher=teachers.abstract_params(config, mesh)
        if config.train.teacher
        else None,
    )

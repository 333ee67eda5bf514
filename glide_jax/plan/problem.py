"""What is planned: one configuration on one topology, checked, with its state's shapes.

Settings, batch and mesh (on TPUs its slices too) that a start on those devices would
refuse are refused here, before anything is allocated or compiled. Nobody looks at data.
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
from glide_jax.train import abstract_state
from glide_jax.train.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Problem:
    """A run on devices that need not be here.

    Attributes:
      config: with a mesh that uses every slice.
      topology: of the devices.
      mesh: of that many devices.
      spans: how far each axis of the mesh reaches.
      state: ShapeDtypeStructs with a NamedSharding each.
      batch: the global batch, alike.
    """

    config: Config
    topology: device_topology.Topology
    mesh: AbstractMesh
    spans: dict[str, device_topology.Span]
    state: TrainState
    batch: dict[str, Any]

    @property
    def examples(self) -> int:
        """Of one microbatch on one device."""
        shards = (
            device_mesh.num_batch_shards(self.mesh) * self.config.train.microbatches
        )
        return self.config.train.global_batch_size // shards

    @property
    def params_by_part(self) -> dict[str, int]:
        """Numbers in each part of the model."""
        return build.parameters_by_part(self.state.params)

    def with_train(self, **changes: Any) -> Problem:
        """The same with other settings of the training section, which move no state."""
        train = dataclasses.replace(self.config.train, **changes)
        config = dataclasses.replace(self.config, train=train)
        return dataclasses.replace(self, config=config)


def make_problem(config: Config, topology: device_topology.Topology) -> Problem:
    """The run, checked.

    Raises:
      UserError: a setting that breaks a rule, a mesh that the devices do not fill, a
        batch that does not divide.
    """
    slices = topology.tpu_slices
    mesh_config = device_mesh.over_slices(config.mesh, slices)
    config = dataclasses.replace(config, mesh=mesh_config)
    validate.validate(config)
    mesh = device_mesh.make_abstract_mesh(mesh_config, topology.num_devices, slices)
    spans = device_topology.spans(mesh_config, mesh, topology)
    abstract_state.check_fits(config, mesh)
    placed = abstract_state.place(config, mesh)
    return Problem(
        config=config,
        topology=topology,
        mesh=mesh,
        spans=spans,
        state=abstract_state.with_places(placed.state, placed.where),
        batch=abstract_state.abstract_batch(config, mesh),
    )

"""The registry of samplers; it imports no JAX, so that a help text is shown at once.

The rules are in single_step.py and multistep.py; sampling_loop.py applies them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

from glide_jax.errors import UserError


class Sampler(NamedTuple):
    """An entry of `SAMPLERS`.

    Attributes:
      summary: one phrase for documentation.
      rule: MODULE.FUNCTION of diffusion/, the function that `load_rule` returns.
      memory: number of earlier estimates that the rule uses.
      calls_per_step: network evaluations of one step.
      uses_eta: whether `eta` has an effect.
    """

    summary: str
    rule: str
    memory: int = 0
    calls_per_step: int = 1
    uses_eta: bool = False

    def load_rule(self) -> Callable:
        """Imports the rule.

        Returns:
          (evaluate, tables, x_t, t, *, noise, eta, earlier, num_earlier,
          clip_denoised, denoised_fn) -> (x_prev, earlier); `earlier` is a tuple of
          `memory` images.
        """
        module, function = self.rule.split(".")
        return getattr(
            importlib.import_module(f"glide_jax.diffusion.{module}"), function
        )


# Validation, flags, documentation and tests read the samplers from here.
SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler("ancestral", "single_step.ddpm"),
    "ddim": Sampler(
        "implicit; deterministic at eta=0", "single_step.ddim", uses_eta=True
    ),
    "plms": Sampler("linear multistep of order 4", "multistep.plms", memory=3),
    "dpm_solver_pp": Sampler(
        "DPM-Solver++(2M), multistep of order 2", "multistep.dpm_solver_pp", memory=1
    ),
    "heun": Sampler(
        "Heun's method, order 2; two network evaluations a step",
        "single_step.heun",
        calls_per_step=2,
    ),
}


def find_sampler(name: str) -> Sampler:
    """Returns an entry of `SAMPLERS`.

    Raises:
      UserError: unknown name.
    """
    if name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise UserError(f"sampler={name!r} is not a known sampler; use one of {known}")
    return SAMPLERS[name]


def to_markdown() -> str:
    """Returns the table of samplers in docs/sampling.md."""
    rows = ["| sampler | method | reads `eta` |", "|---|---|---|"]
    for name, sampler in SAMPLERS.items():
        reads_eta = "yes" if sampler.uses_eta else "no"
        rows.append(f"| `{name}` | {sampler.summary} | {reads_eta} |")
    return "\n".join(rows) + "\n"

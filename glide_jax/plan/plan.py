"""From a configuration and the name of a machine to the whole plan."""

from __future__ import annotations

from typing import Any

from glide_jax.config.defaults import Config
from glide_jax.plan import compiled, cost, problem, report, search
from glide_jax.plan import topology as topologies


def make_plan(
    config: Config,
    topology: topologies.Topology,
    *,
    mfu: float = cost.DEFAULT_MFU,
    price: float | None = None,
    pictures: int | None = None,
    compiles: bool = False,
    searches: bool = False,
) -> dict[str, Any]:
    """The report (see `report`) of a run on these chips.

    Args:
      config: of the run.
      topology: where it is to run.
      mfu: share of the peak that is assumed.
      price: of a chip-hour.
      pictures: to draw with the model, whose cost is wanted too.
      compiles: also compile the step; an error where the compiler is missing.
      searches: take the remat policies and microbatches that `search` ranks first, and
        compile those.

    Raises:
      UserError: what a start on those devices would refuse; `compiles` without the
        compiler.
    """
    given = problem.make_problem(config, topology)
    ranking = search.rank(given, mfu=mfu) if searches else []
    if ranking:
        given = given.with_train(**ranking[0].settings())
    program, missing = None, []
    if searches and not compiles:
        # A search ranks by formula as well; only its last step needs the compiler.
        missing = topologies.missing_for_compiling(topology)
    if compiles or (searches and not missing):
        program = compiled.compile_step(given.config, topology)
    return report.make_report(
        given,
        mfu=mfu,
        price=price,
        pictures=pictures,
        program=program,
        ranking=ranking,
        missing=missing,
    )

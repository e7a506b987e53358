"""Size and resources of an actor pool."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MOST_CALLS = 6
"""Maximum number of shards that an actor on a GPU works on at once; writing its results may keep several CPUs busy."""


@dataclass(frozen=True)
class ActorPool:
    """A pool that grows from `min_size` to `max_size` actors, each with its own CPUs and GPUs."""

    min_size: int
    initial_size: int
    max_size: int
    num_cpus: float
    num_gpus: float
    calls_at_once: int = 2
    """Number of shards that an actor works on at once: one is computed while others are prepared or written."""


def gpus_of_actor(num_gpus: float | None, resources: Mapping[str, float]) -> float:
    """Return the GPUs of each actor: as given, or one if the cluster has any."""
    return num_gpus if num_gpus is not None else float(resources.get("GPU", 0) > 0)


def plan_pool(
    *,
    minimum: int,
    maximum: int | None,
    num_cpus: float,
    num_gpus: float | None,
    resources: Mapping[str, float],
    work: int,
) -> ActorPool:
    """Fit a pool to a cluster.

    Args:
        minimum: fewest actors.
        maximum: most actors; None takes as many as fit on the cluster now.
        num_cpus: CPUs of each actor, and threads of its CPU computations.
        num_gpus: GPUs of each actor; None takes one if the cluster has any.
        resources: current resources of the cluster, by name.
        work: number of units of work, which bounds the number of actors.
    """
    gpus = gpus_of_actor(num_gpus, resources)
    needed = {"CPU": num_cpus, "GPU": gpus}
    fits = [math.floor(resources.get(name, 0) / amount) for name, amount in needed.items() if amount > 0]
    capacity = max(1, min(fits, default=1))
    most = max(1, min(maximum if maximum is not None else max(capacity, minimum), work))
    least = min(minimum, most)
    cpus_per_actor = int(resources.get("CPU", 0) / max(capacity, 1))
    calls = min(MOST_CALLS, max(2, cpus_per_actor)) if gpus else 2
    return ActorPool(least, max(least, min(capacity, most)), most, num_cpus, gpus, calls)

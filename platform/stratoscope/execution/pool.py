"""How many actors work, and what each of them holds."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ActorPool:
    """A pool that grows from `min_size` to `max_size` actors, each with its own CPUs and GPUs."""

    min_size: int
    initial_size: int
    max_size: int
    num_cpus: float
    num_gpus: float


def plan_pool(
    *,
    minimum: int,
    maximum: int | None,
    num_cpus: float,
    num_gpus: float | None,
    resources: dict[str, float],
    work: int,
) -> ActorPool:
    """Fit a pool to a cluster.

    Args:
        minimum: fewest actors.
        maximum: most actors; None takes as many as the cluster holds now.
        num_cpus: CPUs of each actor; its CPU mathematics runs on as many threads.
        num_gpus: GPUs of each actor; None takes one where the cluster has any.
        resources: what the cluster has now, by resource.
        work: units of work; there are never more actors than that.
    """
    gpus = num_gpus if num_gpus is not None else float(resources.get("GPU", 0) > 0)
    wanted = {"CPU": num_cpus, "GPU": gpus}
    held = [math.floor(resources.get(name, 0) / amount) for name, amount in wanted.items() if amount > 0]
    room = max(1, min(held, default=1))
    most = max(1, min(maximum if maximum is not None else max(room, minimum), work))
    least = min(minimum, most)
    return ActorPool(least, max(least, min(room, most)), most, num_cpus, gpus)

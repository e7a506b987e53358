"""Whether this machine or the cluster has the resources that a configuration asks for."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stratoscope.errors import InputError

CPUS = "STRATOSCOPE_CPUS"
"""Environment variable with the number of CPUs that a local Ray uses."""
MAX_CPUS = 10_000
OWN_TYPE = "node_"
"""Beginning of the type that Ray gives a node where there is no autoscaler."""
THIS_MACHINE, THE_CLUSTER = "this machine", "the cluster"


@dataclass(frozen=True)
class Demand:
    """Processes that run at the same time, and the resources of each."""

    each: Mapping[str, float]
    """Amounts by name of the resource, as Ray names it: CPU, GPU, memory in bytes, or a custom resource."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of the configuration that ask for the resources, by name of the resource."""
    number: int = 1
    """Number of processes."""
    number_field: str = ""
    """Field of the configuration that asks for that number."""

    def fits(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many of the processes fit on nodes, each of which runs whole processes."""
        return sum(
            min((math.floor(node.get(name, 0) / amount) for name, amount in self._needed.items()), default=self.number)
            for node in nodes
        )

    def lack(self, nodes: Sequence[Mapping[str, float]], where: str = THIS_MACHINE) -> str | None:
        """Return what nodes lack for the processes, with the field that asks for it; None if they lack nothing.

        Args:
            nodes: resources of each node, by name.
            where: what the nodes are, for the message.
        """
        for name, amount in self._needed.items():
            most = max((node.get(name, 0) for node in nodes), default=0)
            if amount > most:
                has = "has none" if most == 0 else f"has {_amount(name, most)}"
                owner = where if where == THIS_MACHINE else f"no node of {where} has that: the largest"
                return f"{self._field(name)} {_amount(name, amount)}: {owner} {has}"
        fits = self.fits(nodes)
        if fits >= self.number:
            return None
        each = " and ".join(_amount(name, amount) for name, amount in self._needed.items())
        return f"{self.number_field or self._field('CPU')} {self.number}: {where} has room for {fits}, at {each} each"

    @property
    def _needed(self) -> dict[str, float]:
        return {name: amount for name, amount in self.each.items() if amount > 0}

    def _field(self, name: str) -> str:
        return self.fields.get(name, f"resource {name}")


def _amount(name: str, amount: float) -> str:
    return f"{amount / 1e9:,.1f} GB of memory" if name == "memory" else f"{amount:g} {name}"


def local_cpus() -> int | None:
    """Return the number of CPUs in STRATOSCOPE_CPUS, or None if it is not set.

    Raises:
        InputError: it is not a number of CPUs.
    """
    text = os.environ.get(CPUS)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_CPUS:
        raise InputError(f"{CPUS} {text!r} must be a number of CPUs from 1 to {MAX_CPUS:,}; change or unset it")
    return int(text)


def machine_resources() -> dict[str, float]:
    """Return the resources that a local Ray would find on this machine, by name."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    spec = ResourceAndLabelSpec(num_cpus=local_cpus()).resolve(is_head=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {**spec.to_resource_dict(), "memory": memory}


def check_machine(demands: Sequence[Demand]) -> None:
    """Check that this machine has what processes need.

    Raises:
        InputError: it has not; no other machine would take part, so that the processes would wait for ever.
    """
    machine = machine_resources()
    for demand in demands:
        if lack := demand.lack([machine]):
            raise InputError(f"{lack}; ask for less, or set RAY_ADDRESS to a cluster that has more")


@dataclass(frozen=True)
class NodeType:
    """A type of node that an autoscaler can start."""

    name: str
    resources: Mapping[str, float]
    max_count: int
    """Maximum number of nodes; -1 is any."""


def missing_in_cluster(
    demands: Sequence[Demand],
    nodes: Sequence[Mapping[str, float]],
    node_types: Sequence[NodeType] | None,
) -> list[str]:
    """Return what a cluster has to start before processes can run, in a line for each demand that has to wait.

    Args:
        demands: the processes.
        nodes: resources of each living node, by name.
        node_types: types of nodes that its autoscaler can start; empty if it has an autoscaler but the types are not
            known, None if it has no autoscaler.

    Raises:
        InputError: the cluster lacks resources that no autoscaler can add.
    """
    waiting = []
    for demand in demands:
        lack = demand.lack(nodes, THE_CLUSTER)
        if lack is None:
            continue
        if node_types is None:
            raise InputError(f"{lack}; ask for less, or add nodes: it has no autoscaler")
        fitting = [kind for kind in node_types if demand.fits([kind.resources])]
        if node_types and not fitting:
            names = ", ".join(kind.name for kind in node_types)
            raise InputError(f"{lack}, and no node of a type that its autoscaler can start has that ({names})")
        starts = f"a node of type {fitting[0].name}" if fitting else "another node"
        waiting.append(f"{lack}; waiting until the autoscaler has started {starts}")
    return waiting


def check_cluster(demands: Sequence[Demand]) -> list[str]:
    """Check that the connected Ray has what processes need (see `missing_in_cluster`).

    Raises:
        InputError: it has not, and no autoscaler can add it.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return missing_in_cluster(demands, nodes, _node_types())


def _node_types() -> list[NodeType] | None:
    """Return the types of nodes that the autoscaler of the connected Ray can start (see `missing_in_cluster`)."""
    import ray
    import ray._private.state
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    config = ray._private.state.state.get_cluster_config()
    if config is not None and config.node_group_configs:
        return [NodeType(kind.name, dict(kind.resources), kind.max_count) for kind in config.node_group_configs]
    report = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    names = [node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]]
    return [] if report is None or has_autoscaler(report, names) else None


def has_autoscaler(report: bytes, node_types: Iterable[str]) -> bool:
    """Return whether a Ray has an autoscaler.

    Without one, Ray names a type after each node.

    Args:
        report: the state that Ray's monitor publishes, as JSON; version 1 of the autoscaler names the types there.
        node_types: the types of the living nodes, as version 2 knows them.
    """
    summary = json.loads(report).get("autoscaler_report") or {}
    names = {*node_types, *(summary.get("active_nodes") or {}), *(summary.get("pending_launches") or {})}
    return any(name and not name.startswith(OWN_TYPE) for name in names)

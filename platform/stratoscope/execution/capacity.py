"""The resources that a local Ray finds on this machine, and those that an autoscaler can add to a cluster."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stratoscope.errors import InputError

CPUS = "STRATOSCOPE_CPUS"
"""Environment variable with the number of CPUs that a local Ray uses."""
MAX_CPUS = 10_000
OWN_TYPE = "node_"
"""Beginning of the type that Ray gives a node where there is no autoscaler."""


@dataclass(frozen=True)
class NodeType:
    """A type of node that an autoscaler can start."""

    name: str
    resources: Mapping[str, float]
    max_count: int
    """Maximum number of nodes; -1 is any."""


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
    resources = spec.to_resource_dict()  # type: ignore[no-untyped-call]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {**resources, "memory": memory}


def node_types() -> list[NodeType] | None:
    """Return the types of nodes that the autoscaler of the connected Ray can start.

    Returns:
        The types; none if Ray has an autoscaler but its types are not known, and None if it has no autoscaler.
    """
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

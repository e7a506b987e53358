"""Connection to Ray: local by default, to a cluster if RAY_ADDRESS or a submitted job names one."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stratoscope.execution.capacity import local_cpus
from stratoscope.execution.socket_folder import ray_folder


def is_local() -> bool:
    """Return whether the work runs on this machine alone, judging by the environment before a connection is made."""
    return not os.environ.get("RAY_ADDRESS")


@contextmanager
def cluster() -> Iterator[None]:
    """Connect to Ray while the block runs. An existing connection is used and stays open.

    A local Ray uses the number of CPUs in STRATOSCOPE_CPUS, or all CPUs of the machine if it is not set.
    """
    if ray.is_initialized():
        yield
        return
    _propagate_logs()
    address = os.environ.get("RAY_ADDRESS") or "local"
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address,
        num_cpus=local_cpus() if address == "local" else None,
        _temp_dir=ray_folder() if address == "local" else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=False,
    )
    if on_sigterm is not signal.SIG_DFL:
        # Ray has installed a handler that ends the process at once.
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _propagate_logs() -> None:
    """Send Ray's logs to the root logger, and so to the run's log file, instead of the terminal."""
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)


def on_driver_node() -> NodeAffinitySchedulingStrategy:
    """Return the strategy that places an actor on the driver's node, which outlives preemptible nodes."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def resources() -> dict[str, float]:
    """Return the current resources of the cluster, by name."""
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return available


def node_resources() -> list[dict[str, float]]:
    """Return the resources of each living node, by name."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def cpus_per_worker() -> int:
    """Return the most CPUs of a worker such that one worker fits on every node with CPUs, or beside every GPU."""
    nodes = [node for node in node_resources() if node.get("CPU", 0) >= 1]
    gpu_nodes = [node for node in nodes if node.get("GPU", 0) > 0]
    shares = [node["CPU"] // max(1, node.get("GPU", 0)) for node in gpu_nodes or nodes]
    return max(1, int(min(shares, default=1)))

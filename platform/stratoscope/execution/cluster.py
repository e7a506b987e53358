"""Connecting to Ray: a local one by default, a cluster where RAY_ADDRESS or a submitted job names it."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray


def is_local() -> bool:
    """Tell whether the work runs on this machine alone, as far as is known before a connection is made."""
    return not os.environ.get("RAY_ADDRESS")


@contextmanager
def cluster() -> Iterator[None]:
    """Connect to Ray for the length of the block; a connection that was there before is used and left alone.

    A local Ray has as many CPUs as STRATOSCOPE_CPUS says, and all of the machine's without it.
    """
    if ray.is_initialized():
        yield
        return
    _hand_logs_to_the_root()
    address = os.environ.get("RAY_ADDRESS") or "local"
    share = os.environ.get("STRATOSCOPE_CPUS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address,
        num_cpus=int(share) if share and address == "local" else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=False,
    )
    if on_sigterm is not signal.SIG_DFL:
        # Ray has set a handler that ends the process at once.
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _hand_logs_to_the_root() -> None:
    """Let Ray's loggers reach the run's log file instead of the terminal."""
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)


def resources() -> dict[str, float]:
    """Return what the cluster has now, by resource."""
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return available


def node_resources() -> list[dict[str, float]]:
    """Return what each living node has, by resource."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def cpus_per_worker() -> int:
    """Return the CPUs that a worker may take for one to fit on every node that has any, or beside every GPU."""
    held = [resources for resources in node_resources() if resources.get("CPU", 0) >= 1]
    with_gpus = [resources for resources in held if resources.get("GPU", 0) > 0]
    shares = [resources["CPU"] // max(1, resources.get("GPU", 0)) for resources in with_gpus or held]
    return max(1, int(min(shares, default=1)))

"""Connection to Ray: local by default, to a cluster if RAY_ADDRESS or a submitted job names one."""

import inspect
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stratoscope.errors import InputError, first_line
from stratoscope.execution.address import ADVICE, LOCAL, VARIABLE, check_address, ray_address
from stratoscope.execution.capacity import local_cpus
from stratoscope.execution.failures import start_again
from stratoscope.execution.socket_folder import ray_folder
from stratoscope.phases import phase

REGISTER_S = 180
"""Seconds within which a worker process of a local Ray must start; Ray's default of 60 is too short under load."""


@contextmanager
def cluster() -> Iterator[None]:
    """Connect to Ray while the block runs. An existing connection is used and stays open.

    A local Ray uses the number of CPUs in STRATOSCOPE_CPUS, or all CPUs of the machine if it is not set.
    """
    if ray.is_initialized():
        yield
        return
    _propagate_logs()
    address = ray_address()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address == LOCAL:
        with phase("starting Ray"):
            start_again(_start_local, ray.shutdown)
    else:
        with phase(f"connecting to Ray at {address}"):
            _connect(address)
    if on_sigterm is not signal.SIG_DFL:
        # Ray has installed a handler that ends the process at once.
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        with phase("stopping Ray" if address == LOCAL else "leaving Ray", quick=True):
            ray.shutdown()


QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}


def _start_local() -> None:
    """Start a Ray instance for this run only, without the processes for the dashboard and usage reports."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with agent_on_free_port():
        ray.init(
            address="local",
            num_cpus=local_cpus(),
            _temp_dir=ray_folder(),
            include_dashboard=False,
            _system_config={"worker_register_timeout_seconds": REGISTER_S},
            **QUIET,
        )


@contextmanager
def agent_on_free_port() -> Iterator[None]:
    """Make the agent of a Ray instance that starts in this block listen on a free port.

    All agents use the same default port. `ray start` can change it, `ray.init` cannot. If another Ray instance runs on
    the machine, the agent would try that port for 3.4 s before the start continues without it. If a Ray version defines
    the default elsewhere, this function changes nothing.
    """
    try:
        from ray._private.parameter import RayParams

        initialize: Any = RayParams.__init__
        parameters = inspect.signature(initialize).parameters.values()
    except (ImportError, AttributeError):
        yield
        return
    defaults = initialize.__defaults__
    with_default = [p.name for p in parameters if p.default is not p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    initialize.__defaults__ = tuple(
        0 if name == "dashboard_agent_listen_port" else value
        for name, value in zip(with_default, defaults or (), strict=True)
    )
    try:
        yield
    finally:
        initialize.__defaults__ = defaults


def _connect(address: str) -> None:
    """Connect to a running Ray.

    Raises:
        InputError: the address is malformed, or no Ray answers there.
    """
    check_address()
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"{VARIABLE} {address!r} cannot be used: {first_line(error)}; {ADVICE}") from error


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


def missing_resources(num_cpus: float, num_gpus: float) -> str:
    """Return in words what a process with these resources waits for; an empty text if it could start now."""
    needed = {name: amount for name, amount in (("CPU", num_cpus), ("GPU", num_gpus)) if amount}
    if not any(all(node.get(name, 0) >= amount for name, amount in needed.items()) for node in node_resources()):
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in needed.items())
        return f"waiting for resources: no node has {wanted}"
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    total = resources()
    short = [name for name, amount in needed.items() if free.get(name, 0) < amount]
    described = ", ".join(f"{free.get(n, 0):g} of {total.get(n, 0):g} {n} free, {needed[n]:g} needed" for n in short)
    return f"waiting for resources or for processes to start: {described}" if short else ""


def cpus_per_worker() -> int:
    """Return the most CPUs a worker may have so that one fits beside every GPU or, without GPUs, on every node."""
    nodes = [node for node in node_resources() if node.get("CPU", 0) >= 1]
    gpu_nodes = [node for node in nodes if node.get("GPU", 0) > 0]
    shares = [node["CPU"] // max(1, node.get("GPU", 0)) for node in gpu_nodes or nodes]
    return max(1, int(min(shares, default=1)))
